#include "sft/base/watchdog.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>
#include <vector>

#include "sft/base/activity.h"
#include "support/temp_dir.h"

namespace sft::base {
namespace {

namespace fs = std::filesystem;
using testing::ExitedWithCode;

void sleep_seconds(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

// Also of the processes in which death tests start this program again.
fs::path common_folder() {
  if (const char* theirs = std::getenv("SFT_WATCHDOG_TEST")) return theirs;
  static const test::TempDir own;
  ::setenv("SFT_WATCHDOG_TEST", own.path().c_str(), /*overwrite=*/1);
  return own.path();
}

fs::path fresh_folder(const std::string& name) {
  const fs::path folder = common_folder() / name;
  fs::remove_all(folder);
  return folder;
}

std::string text_of(const fs::path& path) {
  std::ifstream stream(path);
  return {std::istreambuf_iterator<char>(stream), {}};
}

TEST(Activity, CollectivesAreNumberedAndLeft) {
  const int64_t before = activity::now().data.sequence;
  {
    const activity::Collective inside(activity::Plane::kData, "all_gather");
    EXPECT_EQ(activity::now().data.sequence, before + 1);
    EXPECT_TRUE(activity::now().data.inside);
    EXPECT_STREQ(activity::now().data.name, "all_gather");
  }
  EXPECT_FALSE(activity::now().data.inside);
  activity::set_step(3);
  activity::set_block(2);
  activity::set_step(4);
  EXPECT_EQ(activity::now().step, 4);
  EXPECT_EQ(activity::now().block, 0);
}

class WatchdogDeathTest : public testing::Test {
 protected:
  WatchdogDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(WatchdogDeathTest, AStartThatHangsEndsTheProcess) {
  EXPECT_EXIT(
      {
        const Watchdog watchdog(0.3);
        sleep_seconds(60);
      },
      ExitedWithCode(86), "no progress for .* s .section start");
}

void hang_in_a_step(const fs::path& folder) {
  Watchdog watchdog(60);
  watchdog.set_rank({folder, 0, {"here"}}, {.start = 0.5, .step = 0.5});
  activity::set_step(9);
  watchdog.enter(Section::kStep);
  sleep_seconds(60);
}

TEST_F(WatchdogDeathTest, AStepThatHangsLeavesAReportWithStacks) {
  const fs::path folder = fresh_folder("watchdog-report");
  EXPECT_EXIT(hang_in_a_step(folder), ExitedWithCode(86),
              "rank 0 .here. does not come on: section step.*step 9");
  const std::string report = text_of(folder / "rank-0.json");
  EXPECT_NE(report.find("nanosleep"), std::string::npos) << report;  // what the main thread was in
  EXPECT_NE(text_of(folder / "verdict.txt").find("does not come on"), std::string::npos);
}

TEST_F(WatchdogDeathTest, TheOtherRanksReportIsRead) {
  const fs::path folder = fresh_folder("watchdog-two-ranks");
  const auto hang = [&] {
    Watchdog watchdog(60);
    watchdog.set_rank({folder, 1, {"here", "there"}}, {.start = 0.5});
    sleep_seconds(60);
  };
  EXPECT_EXIT(hang(), ExitedWithCode(86), "rank 0 .here. did not report");
}

TEST_F(WatchdogDeathTest, AFolderThatCannotBeWrittenKeepsNobodyFromEnding) {
  const fs::path file = fresh_folder("watchdog-no-folder");
  std::ofstream(file) << "a file\n";
  EXPECT_EXIT(hang_in_a_step(file / "hang"), ExitedWithCode(86), "rank 0 .here. does not come on: section step.*step 9");
}

// A pipe that nobody reads holds who opens it for writing, as storage that does not answer does.
TEST_F(WatchdogDeathTest, StorageThatDoesNotAnswerKeepsNobodyFromEnding) {
  const fs::path folder = fresh_folder("watchdog-no-answer");
  fs::create_directories(folder);
  ASSERT_EQ(::mkfifo((folder / "rank-0.json.tmp").c_str(), 0600), 0);
  EXPECT_EXIT(hang_in_a_step(folder), ExitedWithCode(86), "step 9., and .*watchdog-no-answer does not answer");
}

void lose_ranks(const fs::path& folder, int rank, const std::vector<int>& lost) {
  Watchdog watchdog(60);
  watchdog.set_rank({folder, rank, {"a", "b", "c", "d"}}, {.start = 60});
  for (const int each : lost) watchdog.lost(each);
  sleep_seconds(60);
}

TEST_F(WatchdogDeathTest, TheFirstOfTheRanksThatAreLeftNamesThoseThatEnded) {
  const fs::path folder = fresh_folder("watchdog-lost");
  EXPECT_EXIT(lose_ranks(folder, 0, {2}), ExitedWithCode(86), "^error: rank 2 .c. has ended");
  EXPECT_EXIT(lose_ranks(folder, 1, {2, 0}), ExitedWithCode(86), "^error: rank 2 .c., rank 0 .a. has ended");
  EXPECT_EXIT(lose_ranks(folder, 3, {2}), ExitedWithCode(86), "^$");
  EXPECT_FALSE(fs::exists(folder)) << "there is nothing to report of";
}

TEST_F(WatchdogDeathTest, ARankThatEndedOfAHangIsNamedOnce) {
  const fs::path folder = fresh_folder("watchdog-verdict");
  fs::create_directories(folder);
  std::ofstream(folder / "verdict.txt") << "error: no progress\n";
  EXPECT_EXIT(lose_ranks(folder, 0, {2}), ExitedWithCode(86), "^$");
}

TEST_F(WatchdogDeathTest, TheLauncherIsGivenTimeToEndAll) {
  const auto leave = [] {
    Watchdog watchdog(60);
    watchdog.set_rank({fresh_folder("watchdog-launcher"), 0, {"a", "b"}}, {.start = 60});
    watchdog.lost(1);
    sleep_seconds(0.2);
    ::_exit(3);
  };
  EXPECT_EXIT(leave(), ExitedWithCode(3), "^$");
}

TEST(Watchdog, ProgressAndInnerSectionsKeepItQuiet) {
  Watchdog watchdog(60);
  watchdog.set_rank({fresh_folder("watchdog-quiet"), 0, {"here"}},
                    {.start = 60, .step = 3, .checkpoint = 60});
  for (int step = 0; step < 8; ++step) {
    watchdog.enter(Section::kStep);
    sleep_seconds(0.4);
    const auto saving = watchdog.scope(Section::kCheckpoint);
    sleep_seconds(0.4);
  }
  SUCCEED();  // twice the limit of a step went by, in steps and saves that were each shorter
}

}  // namespace
}  // namespace sft::base
