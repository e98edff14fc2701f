// What a run is, as far as its checkpoints care: what must be equal when it is resumed, and what its bits
// depend on.
#pragma once

#include <string>
#include <vector>

#include "sft/config/options.h"
#include "sft/data/dataset.h"
#include "sft/model/spec.h"
#include "sft/train/plan.h"

namespace sft::train {

// JSON object {"run": {...}, "schedule": {...}, "bits": {...}}, stored in every checkpoint. adapter: JSON object of further
// entries of "run", or empty. evaluation_sets: the hashes of their contents.
std::string run_identity(const config::Options& options, const RunPlan& plan,
                         const data::DatasetInfo& dataset, const model::DecoderSpec& spec,
                         const std::string& device, int threads_per_rank, const std::string& adapter = "",
                         const std::vector<std::string>& evaluation_sets = {});

// Local. Whether an entry of "schedule" is the same: "best_model" is when both runs measure the best model alike (by the same metric, in the
// same direction, on the same sets), "early_stopping" when both count evaluations without gain alike.
bool has_same_schedule_value(const std::string& saved_identity, const std::string& identity, const char* key);

// Local. Whether a checkpoint with this identity read the same rows in the same order as a run with these
// options would, the size of the global batch aside. num_rows: usable ones.
bool has_same_rows(const std::string& saved_identity, const config::Options& options,
                   const data::DatasetInfo& dataset, int64_t num_rows);

// Local. Compares a checkpoint's identity with this run's.
// Error(kConfig), equal on all ranks: another data set, order or model; another global batch unless
// allow_batch_change (names the values that keep it). Warnings (log): other learning-rate options, and
// whatever makes bits differ.
void check_resumable(const std::string& saved_identity, const std::string& identity, const RunPlan& plan,
                     bool allow_batch_change);

}  // namespace sft::train
