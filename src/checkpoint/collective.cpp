#include "checkpoint/collective.h"

#include <exception>
#include <map>
#include <vector>

namespace sft::checkpoint {
namespace {

constexpr int kMessagesShown = 4;

}  // namespace

std::string failures_of(parallel::Communicator& comm, const std::function<void()>& action) {
  std::string mine;
  try {
    action();
  } catch (const std::exception& error) {
    mine = error.what();
    if (mine.empty()) mine = "unknown error";
  }
  const std::vector<std::string> messages = comm.all_gather_bytes(mine);
  std::map<std::string, std::size_t> first_rank;
  std::string text;
  for (std::size_t rank = 0; rank < messages.size(); ++rank) {
    if (messages[rank].empty() || !first_rank.try_emplace(messages[rank], rank).second) continue;
    if (first_rank.size() > kMessagesShown) continue;
    if (!text.empty()) text += "; ";
    if (messages.size() > 1) text += fmt::format("[rank {}] ", rank);
    text += messages[rank];
  }
  if (first_rank.size() > kMessagesShown)
    text += fmt::format("; and {} more", first_rank.size() - kMessagesShown);
  return text;
}

void run_agreed(parallel::Communicator& comm, base::ExitCode code, const std::string& what,
                const std::function<void()>& action) {
  const std::string failures = failures_of(comm, action);
  if (!failures.empty()) throw base::Error(code, what + ": " + failures, base::SeenBy::kAllRanks);
}

}  // namespace sft::checkpoint
