#include "checkpoint/collective.h"

#include <exception>
#include <new>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/directory.h"
#include "sft/base/file.h"

namespace sft::checkpoint {
namespace {

using nlohmann::json;

constexpr std::size_t kMessagesShown = 4;

std::string to_text(const Failure& failure) {
  const json value{failure.host, failure.message, failure.file, failure.reason,
                   static_cast<int>(failure.code)};
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

Failure from_text(int rank, const std::string& text) {
  const json value = json::parse(text);
  return {rank, value[0], value[1], value[2], value[3], static_cast<base::ExitCode>(value[4].get<int>())};
}

}  // namespace

std::optional<Failure> failure_of(const std::function<void()>& action) {
  Failure failure;
  try {
    action();
    return std::nullopt;
  } catch (const base::FileError& error) {
    failure.code = error.code();
    failure.message = error.what();
    failure.file = error.path().string();
    failure.reason = error.reason();
  } catch (const std::filesystem::filesystem_error& error) {
    failure.code = base::ExitCode::kStorage;
    failure.message = error.what();
    failure.file = error.path1().string();
    failure.reason = error.code().message();
  } catch (const base::Error& error) {
    failure.code = error.code();
    failure.message = failure.reason = error.what();
  } catch (const std::bad_alloc& error) {
    failure.code = base::ExitCode::kOutOfMemory;
    failure.message = failure.reason = error.what();
  } catch (const std::exception& error) {
    failure.message = failure.reason = error.what();
  }
  return failure;
}

std::vector<Failure> gather_failures(parallel::Communicator& comm, const std::optional<Failure>& mine) {
  std::string text;
  if (mine) {
    Failure failure = *mine;
    failure.host = host_name();
    text = to_text(failure);
  }
  const std::vector<std::string> texts = comm.all_gather_bytes(text);
  std::vector<Failure> failures;
  for (std::size_t rank = 0; rank < texts.size(); ++rank) {
    if (!texts[rank].empty()) failures.push_back(from_text(static_cast<int>(rank), texts[rank]));
  }
  return failures;
}

std::string describe(const std::vector<Failure>& failures, int world_size) {
  std::set<std::string> seen;
  std::string text;
  for (const Failure& failure : failures) {
    if (!seen.insert(failure.message).second || seen.size() > kMessagesShown) continue;
    if (!text.empty()) text += "; ";
    if (world_size > 1) text += fmt::format("[rank {} {}] ", failure.rank, failure.host);
    text += failure.message;
  }
  if (seen.size() > kMessagesShown) text += fmt::format("; and {} more", seen.size() - kMessagesShown);
  return text;
}

std::string failures_of(parallel::Communicator& comm, const std::function<void()>& action) {
  return describe(gather_failures(comm, failure_of(action)), comm.size());
}

void run_agreed(parallel::Communicator& comm, base::ExitCode code, const std::string& what,
                const std::function<void()>& action) {
  const std::string failures = failures_of(comm, action);
  if (!failures.empty()) throw base::Error(code, what + ": " + failures, base::SeenBy::kAllRanks);
}

}  // namespace sft::checkpoint
