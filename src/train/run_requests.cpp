#include "sft/train/run_requests.h"

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
  return {.save = is_there(options_.output_dir / kSaveFile) ||
                  passed(options_.save_on_interval_minutes, base::monotonic_seconds() - saved_at_),
          .requeue = passed(options_.max_run_minutes, seconds_since_process_start()),
          .stop = is_there(options_.output_dir / kStopFile)};
}

void RunRequests::saved() {
  saved_at_ = base::monotonic_seconds();
  forget(options_.output_dir / kSaveFile);
}

void RunRequests::stopped() {
  forget(options_.output_dir / kStopFile);
}

}  // namespace sft::train
