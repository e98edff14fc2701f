#include "sft/train/run_requests.h"

#include <algorithm>

#include "process_clock.h"
#include "sft/base/timer.h"

namespace sft::train {
namespace {

namespace fs = std::filesystem;

constexpr double kSecondsPerMinute = 60;
constexpr const char* kSaveFile = "save-now";
constexpr const char* kStopFile = "stop";

// A file system that does not answer properly asks for nothing.
bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

void forget(const fs::path& path) {
  std::error_code error;
  fs::remove(path, error);
}

}  // namespace

RunRequests::RunRequests(RunRequestOptions options)
    : options_(std::move(options)), saved_at_(base::monotonic_seconds()) {}

RunRequests::Asked RunRequests::look() const {
  const auto passed = [](const std::optional<double>& minutes, double seconds) {
    return minutes && seconds >= *minutes * kSecondsPerMinute;
  };
  const double now = base::monotonic_seconds();
  const bool save =
      is_there(options_.output_dir / kSaveFile) || passed(options_.save_on_interval_minutes, now - saved_at_);
  return {.save = save && now >= not_before_,
          .requeue = passed(options_.max_run_minutes, seconds_since_process_start()),
          .stop = is_there(options_.output_dir / kStopFile)};
}

void RunRequests::saved() {
  saved_at_ = base::monotonic_seconds();
  not_before_ = 0;
  forget(options_.output_dir / kSaveFile);
}

void RunRequests::failed() {
  const double minutes = std::min(1.0, options_.save_on_interval_minutes.value_or(1.0));
  not_before_ = base::monotonic_seconds() + minutes * kSecondsPerMinute;
}

void RunRequests::stopped() {
  forget(options_.output_dir / kStopFile);
}

}  // namespace sft::train
