// What a data set file says it was prepared with (docs/data-format.md, "How it was prepared"), against this
// run's options.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "sft/config/options.h"
#include "sft/data/dataset.h"

namespace sft::train {

// Which of the run's data sets a file is.
struct DatasetRole {
  std::string name = {};  // of an evaluation set that has one
  bool is_evaluation = false;
  std::string option() const { return is_evaluation ? "eval_dataset" : "train_dataset"; }
};

// Local. Throws kInvalidData, naming file, option and remedy, where the two differ.
// tokenizer_folder: that of this run.
void check_preparation(const DatasetRole& role, const std::string& path, const config::Options& options,
                       const data::DatasetInfo& info, const std::filesystem::path& tokenizer_folder);

}  // namespace sft::train
