// A whole run: from parsed options to an exit code.
#pragma once

#include "sft/base/error.h"
#include "sft/base/watchdog.h"
#include "sft/config/parse.h"
#include "sft/parallel/environment.h"

namespace sft::train {

// Collective. Sets everything up (data, model, engine, optimizer, checkpoints, logs), resumes where asked,
// trains, under `watchdog`, which is in its first section.
base::ExitCode run_training(const config::ParsedOptions& parsed, parallel::MpiEnv& env,
                            base::Watchdog& watchdog);

}  // namespace sft::train
