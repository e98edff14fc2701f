#include "train/stragglers.h"

#include <gtest/gtest.h>

namespace sft::train {
namespace stragglers_test {

using Ranks = std::vector<RankTimes>;

RankTimes times(double work, double flops = 1e9) {
  return {.total = 10, .work = work, .flops = flops};
}

std::vector<int> named(StragglerWatch& watch, const Ranks& ranks) {
  std::vector<int> result;
  for (const Straggler& straggler : watch.take(ranks)) result.push_back(straggler.rank);
  return result;
}

TEST(RankTimes, WorkIsWhatDoesNotWaitForOthers) {
  base::PhaseTimers::Seconds phases{};
  const auto set = [&](base::Phase phase, double seconds) {
    phases[static_cast<std::size_t>(phase)] = seconds;
  };
  set(base::Phase::kData, 1);
  set(base::Phase::kForward, 2);
  set(base::Phase::kBackward, 4);
  set(base::Phase::kCommunication, 8);
  set(base::Phase::kOptimizer, 16);
  set(base::Phase::kEvaluation, 32);
  set(base::Phase::kCheckpoint, 64);
  set(base::Phase::kLogging, 128);
  RankTimes sums;
  sums.add(phases, 255 + 256);  // 256: in no phase, as the vote on stopping is
  EXPECT_EQ(sums.total, 511);
  EXPECT_EQ(sums.work, 1 + 2 + 4 + 16);
  EXPECT_EQ(sums.data, 1);
  EXPECT_EQ(sums.wait, 8 + 256);
}

TEST(StragglerWatch, NamesARankThatIsBehindForThreeWindowsOnce) {
  StragglerWatch watch;
  const Ranks slow{times(1), times(1.02), times(1.13), times(0.98)};  // median 1.01
  EXPECT_TRUE(named(watch, slow).empty());
  EXPECT_TRUE(named(watch, slow).empty());
  const auto found = watch.take(slow);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].rank, 2);
  EXPECT_NEAR(found[0].behind, 1.13 / 1.01 - 1, 1e-12);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(named(watch, slow).empty()) << "named once";
  EXPECT_TRUE(named(watch, {times(1), times(1), times(1), times(1)}).empty());
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(named(watch, slow).empty());
  EXPECT_EQ(named(watch, slow), std::vector<int>{2}) << "again after it was in time";
}

TEST(StragglerWatch, LeavesAloneWhoIsNearTheMedian) {
  StragglerWatch watch;
  for (int i = 0; i < 9; ++i) EXPECT_TRUE(named(watch, {times(1), times(1.09), times(0.5)}).empty());
  for (int i = 0; i < 9; ++i)  // behind now and then, never three times in a row
    EXPECT_TRUE(named(watch, {times(1), times(i % 3 == 2 ? 1 : 2), times(1)}).empty());
}

TEST(StragglerWatch, PutsShortEntriesTogether) {
  StragglerWatch watch;
  const auto entry = [](double work) { return RankTimes{.total = 0.25, .work = work, .flops = 1e9}; };
  const Ranks slow{entry(0.3), entry(0.2), entry(0.2)}, in_time{entry(0.2), entry(0.2), entry(0.2)};
  for (int i = 0; i < 11; ++i) EXPECT_TRUE(named(watch, slow).empty()) << i;
  const auto found = watch.take(slow);  // the twelfth: three windows of four
  ASSERT_EQ(found.size(), 1U);
  EXPECT_NEAR(found[0].behind, 0.5, 1e-12);
  EXPECT_NEAR(found[0].times.work, 1.2, 1e-12);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(named(watch, in_time).empty());
  for (int i = 0; i < 40; ++i)  // behind by an eighth in every other window
    EXPECT_EQ(named(watch, i % 8 == 0 ? slow : in_time).size(), 0U) << i;
}

TEST(StragglerWatch, AlsoBetweenTwoRanks) {
  StragglerWatch watch;
  const Ranks slow{times(1.3), times(1)};  // median 1.15
  named(watch, slow);
  named(watch, slow);
  EXPECT_EQ(named(watch, slow), std::vector<int>{0});
}

TEST(StragglerWatch, ARankWithMoreToDoIsNotSlow) {
  StragglerWatch watch;
  for (int i = 0; i < 5; ++i)  // longer rows, the same speed
    EXPECT_TRUE(named(watch, {times(1), times(1.5, 1.5e9), times(1)}).empty());
  for (int i = 0; i < 5; ++i)  // hardly any rows: much time for each operation, little in all
    EXPECT_TRUE(named(watch, {times(1), times(0.1, 1e6), times(1)}).empty());
  const Ranks slow{times(1), times(1.8, 1.5e9), times(1)};  // 1.2 times as long for each operation
  named(watch, slow);
  named(watch, slow);
  EXPECT_EQ(named(watch, slow), std::vector<int>{1});
}

TEST(StragglerWatch, NobodyIsBehindInAWorldOfOneOrWithoutWork) {
  StragglerWatch alone, idle;
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(named(alone, {times(3)}).empty());
    EXPECT_TRUE(named(idle, {times(0, 0), times(0, 0), times(1, 0)}).empty());
  }
}

}  // namespace stragglers_test
}  // namespace sft::train
