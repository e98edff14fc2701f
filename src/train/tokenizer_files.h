// A tokenizer's files, which a model folder carries along.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "sft/checkpoint/checkpoint.h"

namespace sft::train {

inline constexpr int64_t kMaxTokenizerBytes = int64_t{256} << 20;  // of a file

// Local. Those that lie beside the data set, for checkpoints. Error(kInvalidData): what cannot go into one.
std::vector<checkpoint::SideFile> tokenizer_files(const std::string& dataset_path);

// Local. Chat templates besides the default one (tool_use, rag, ...), from where transformers keeps them in a
// folder with a tokenizer. Error(kInvalidData).
std::vector<checkpoint::SideFile> named_chat_templates(const std::filesystem::path& folder);

}  // namespace sft::train
