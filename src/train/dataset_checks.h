// Whether a prepared data set is the one this run's options and model ask for.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "preparation.h"
#include "sft/config/options.h"
#include "sft/data/dataset.h"
#include "sft/model/spec.h"

namespace sft::train {

// Local. How the rows of the training set (or of an evaluation set) are cut, packed and shuffled.
data::RowOptions row_options(const config::Options& options, bool training);

struct EvaluationSet {
  std::string name, path;  // name: empty where there is one set without
  std::unique_ptr<data::TokenDataset> dataset;
};

// Local. Opens it; what is missing or does not fit is refused naming the file and the remedy.
std::unique_ptr<data::TokenDataset> open_checked_dataset(const DatasetRole& role, const std::string& path,
                                                         const config::Options& options,
                                                         const model::DecoderSpec& spec,
                                                         const std::filesystem::path& model_dir);

}  // namespace sft::train
