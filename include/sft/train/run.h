// A whole run: from parsed options to an exit code.
#pragma once

#include "sft/base/error.h"
#include "sft/config/parse.h"
#include "sft/parallel/environment.h"

namespace sft::train {

// Collective. Sets everything up (data, model, engine, optimizer, checkpoints, logs), resumes where asked,
// trains.
base::ExitCode run_training(const config::ParsedOptions& parsed, parallel::MpiEnv& env);

}  // namespace sft::train
