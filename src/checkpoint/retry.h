// Storage that refuses for a moment is asked again, a bounded number of times.
#pragma once

#include <filesystem>
#include <functional>
#include <stop_token>
#include <utility>

#include "checkpoint/store.h"

namespace sft::checkpoint {

inline constexpr int kRetries = 3;

class Retry {
 public:
  // Keeps a reference to the hooks.
  Retry(const StoreHooks& hooks, std::stop_token stop) : hooks_(hooks), stop_(std::move(stop)) {}

  // Local. Runs the action, which is about `file`; after an exception again, kRetries times at most and with
  // growing pauses, then the exception goes on its way. An action starts from the beginning each time and
  // writes everything again: after an fsync that failed, the kernel may have dropped what was written before
  // it.
  void operator()(const std::filesystem::path& file, const std::function<void()>& action) const;

  // Local. Throws when nobody waits for the result any more.
  void check_wanted() const;

 private:
  const StoreHooks& hooks_;
  std::stop_token stop_;
};

}  // namespace sft::checkpoint
