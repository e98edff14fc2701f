#include "checkpoint/retry.h"

#include <exception>
#include <thread>

#include "sft/base/error.h"
#include "sft/base/log.h"

namespace sft::checkpoint {
namespace {

constexpr int kPauseGrowth = 4;

}  // namespace

void Retry::operator()(const std::filesystem::path& file, const std::function<void()>& action) const {
  std::chrono::milliseconds pause = hooks_.first_pause;
  for (int retries_left = kRetries;; --retries_left) {
    check_wanted();
    try {
      hooks_.attempt(file);
      return action();
    } catch (const std::exception& error) {
      if (retries_left == 0 || stop_.stop_requested()) throw;
      log::info("{}; trying again in {} ms", error.what(), pause.count());
    }
    std::this_thread::sleep_for(pause);
    pause *= kPauseGrowth;
  }
}

void Retry::check_wanted() const {
  if (stop_.stop_requested()) base::fail(base::ExitCode::kStorage, "the save was abandoned");
}

}  // namespace sft::checkpoint
