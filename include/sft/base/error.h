// Errors and the exit codes they end the program with.
//
// Exceptions travel inside the program; main() turns one into a single message and an exit code.
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace sft::base {

// Process exit codes. Scripts depend on them: do not renumber.
enum class ExitCode : int {
  kDone = 0,
  kRequeue = 85,      // stopped on request, state saved: run again to go on
  kHang = 86,         // a deadline passed
  kNonFinite = 87,    // too many non-finite steps in a row
  kDiverged = 88,     // ranks disagree on something that must be equal
  kInvalidData = 89,  // data set, model or checkpoint is not usable
  kOutOfMemory = 90,
  kStorage = 91,  // disk full, unreadable or unshared
  kConfig = 92,   // options
  kInternal = 70, // a bug in sft-dist
};

// Whether every rank throws this same error (then it is printed once, and MPI ends in an orderly way)
// or perhaps only this one (then the job is aborted).
enum class SeenBy { kThisRank, kAllRanks };

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message, SeenBy seen_by = SeenBy::kThisRank)
      : std::runtime_error(message), code_(code), seen_by_(seen_by) {}

  ExitCode code() const { return code_; }
  SeenBy seen_by() const { return seen_by_; }

 private:
  ExitCode code_;
  SeenBy seen_by_;
};

// Throws Error(code, formatted message). The message says what, where, and what to do.
template <typename... Args>
[[noreturn]] void fail(ExitCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace sft::base
