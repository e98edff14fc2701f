// What a data set file says it was prepared with (docs/data-format.md, "How it was prepared"), against this run's options.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "sft/config/options.h"
#include "sft/data/dataset.h"

namespace sft::train {

// Local. Throws kInvalidData, naming file, option and remedy, where the two differ.
// option_name: "train_dataset" or "eval_dataset". tokenizer_folder: that of this run.
void check_preparation(const std::string& option_name, const std::string& path,
                       const config::PrepareOptions& prepare, const data::DatasetInfo& info,
                       const std::filesystem::path& tokenizer_folder);

}  // namespace sft::train
