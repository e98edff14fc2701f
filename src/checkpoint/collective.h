// Work that may fail on some ranks, and whose outcome all ranks must know.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "sft/base/error.h"
#include "sft/checkpoint/checkpoint.h"
#include "sft/parallel/communicator.h"

namespace sft::checkpoint {

// Local. What the action threw; rank and host are filled in by gather_failures.
std::optional<Failure> failure_of(const std::function<void()>& action);
// Collective. Every rank learns what went wrong anywhere, by rank.
std::vector<Failure> gather_failures(parallel::Communicator& comm, const std::optional<Failure>& mine);
// Local. For people, each message once; "" when nothing went wrong.
std::string describe(const std::vector<Failure>& failures, int world_size);

// Collective. Runs action on this rank, then tells every rank what went wrong anywhere: "" when nothing did,
// else the messages of the ranks that failed, each once. The action itself must not be collective.
std::string failures_of(parallel::Communicator& comm, const std::function<void()>& action);

// The same, but throws Error(code, `what` + ": " + messages, SeenBy::kAllRanks) when something went wrong.
void run_agreed(parallel::Communicator& comm, base::ExitCode code, const std::string& what,
                const std::function<void()>& action);

}  // namespace sft::checkpoint
