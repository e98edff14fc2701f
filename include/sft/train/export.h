// `sft-dist export --merge`: an adapter and its base model as one Hugging Face model folder.
#pragma once

#include <filesystem>

#include "sft/parallel/communicator.h"

namespace sft::train {

// Collective, on one rank. Writes config.json, the tokenizer's files and fp32 weights with the adapter added to them
// into `output`. Error(kConfig): `adapter_dir` holds no adapter, or `output` holds a model already.
void export_merged(const std::filesystem::path& adapter_dir, const std::filesystem::path& output,
                   parallel::Communicator& comm);

}  // namespace sft::train
