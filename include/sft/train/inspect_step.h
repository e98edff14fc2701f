// `sft-dist inspect-step`: the rows that a step of a run consumed or will consume.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "sft/config/options.h"

namespace sft::train {

// Local. A table for people and scripts: one line for each row of the step (counted from 1), in the order of
// the `rows` that a skipped step names. It follows from the options alone; output_dir is looked at for two
// things: ranks unset: as many as wrote its newest checkpoint of this run, or one. And steps are counted from
// the newest checkpoint before the step, so that they are right for a run whose number of ranks or global
// batch changed. Error(kConfig): no such step; kInvalidData: the data set.
std::string inspect_step(const config::Options& options, int64_t step, std::optional<int64_t> ranks);

}  // namespace sft::train
