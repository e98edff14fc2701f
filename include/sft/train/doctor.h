// `sft-dist doctor`: whether the allocation is fit for a run, before the run.
#pragma once

#include "sft/base/error.h"
#include "sft/config/options.h"
#include "sft/parallel/environment.h"

namespace sft::train {

// Collective. Looks at what the run of these options would use: hosts, program, model and data, output_dir, devices,
// cores, limits, network, clocks. Rank 0 prints a table, each line ok or what to do. Nothing is trained; output_dir
// is made if it is not there. Returns kDone, or the code that the first line with something to do stands for
// (docs/running.md), the same on all ranks.
base::ExitCode examine_allocation(const config::Options& options, parallel::MpiEnv& env,
                                  parallel::Communicator& comm);

}  // namespace sft::train
