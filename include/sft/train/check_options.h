// What is wrong with the options of a run, before there is a model or data.
#pragma once

#include "sft/config/options.h"

namespace sft::train {

// Local. What config::validate_for_training says, and the arguments of the schedule and the optimizer, which these know. Error(kConfig).
void check_options(const config::Options& options);

}  // namespace sft::train
