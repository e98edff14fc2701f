#include "sft/train/run_requests.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "support/temp_dir.h"

namespace sft::train {
namespace {

constexpr double kMinutes = 0.005;
constexpr auto kLessThanAMinute = std::chrono::seconds(30);

bool asks_in_time(const RunRequests& requests) {
  const auto deadline = std::chrono::steady_clock::now() + kLessThanAMinute;
  while (std::chrono::steady_clock::now() < deadline) {
    if (requests.look().save) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

TEST(RunRequests, AskAgainAfterAFailureWhenTheIntervalHasPassed) {
  const test::TempDir folder;
  RunRequests requests(
      {.output_dir = folder.path(), .max_run_minutes = {}, .save_on_interval_minutes = kMinutes});
  EXPECT_TRUE(asks_in_time(requests));
  requests.failed();
  EXPECT_TRUE(asks_in_time(requests));
}

TEST(RunRequests, LeaveStorageThatFailsAloneForAMinute) {
  const test::TempDir folder;
  test::write_file(folder / "save-now", "");
  RunRequests requests({.output_dir = folder.path(), .max_run_minutes = {}, .save_on_interval_minutes = {}});
  EXPECT_TRUE(requests.look().save);
  requests.failed();
  EXPECT_FALSE(requests.look().save);
  requests.saved();
  EXPECT_FALSE(requests.look().save);
  EXPECT_FALSE(std::filesystem::exists(folder / "save-now"));
}

}  // namespace
}  // namespace sft::train
