// Work that may fail on some ranks, and whose outcome all ranks must know.
#pragma once

#include <functional>
#include <string>

#include "sft/base/error.h"
#include "sft/parallel/communicator.h"

namespace sft::checkpoint {

// Collective. Runs action on this rank, then tells every rank what went wrong anywhere: "" when nothing did,
// else the messages of the ranks that failed, each once. The action itself must not be collective.
std::string failures_of(parallel::Communicator& comm, const std::function<void()>& action);

// The same, but throws Error(code, `what` + ": " + messages, SeenBy::kAllRanks) when something went wrong.
void run_agreed(parallel::Communicator& comm, base::ExitCode code, const std::string& what,
                const std::function<void()>& action);

}  // namespace sft::checkpoint
