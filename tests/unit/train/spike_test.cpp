#include "sft/train/spike.h"

#include <gtest/gtest.h>

#include <cmath>

namespace sft::train {
namespace spike_test {

// n updates with the norms 1 and 3 in turn: mean 2, sum of squares n.
SpikeHistory one_and_three(const SpikeRule& rule, int n) {
  SpikeHistory history;
  for (int i = 0; i < n; ++i) EXPECT_FALSE(rule.take(i % 2 == 0 ? 1.0 : 3.0, history)) << i;
  return history;
}

TEST(SpikeRule, MeasuresAgainstMeanAndSampleDeviation) {
  const SpikeRule rule(2.5);
  const SpikeHistory history = one_and_three(rule, 20);
  const double deviation = std::sqrt(20.0 / 19.0), limit = 2 + 2.5 * deviation;
  SpikeHistory below = history, above = history;
  EXPECT_FALSE(rule.take(limit * (1 - 1e-12), below));
  EXPECT_EQ(below.norms.size(), 21U);
  const auto spike = rule.take(limit * (1 + 1e-12), above);
  ASSERT_TRUE(spike);
  EXPECT_NEAR(spike->mean, 2, 1e-15);
  EXPECT_NEAR(spike->deviation, deviation, 1e-15);
  EXPECT_NEAR(spike->limit, limit, 1e-14);
  EXPECT_EQ(above.norms, history.norms) << "a spike must not enter the statistics";
  EXPECT_EQ(above.in_row, 1);
  EXPECT_EQ(above.total, 1);
}

TEST(SpikeRule, NeedsTwentyUpdates) {
  const SpikeRule rule(1);
  SpikeHistory history = one_and_three(rule, 19);
  EXPECT_FALSE(rule.take(1e6, history));
  history = one_and_three(rule, 20);
  EXPECT_TRUE(rule.take(1e6, history));
}

TEST(SpikeRule, ForgetsWhatIsOlderThanAHundredUpdates) {
  const SpikeRule rule(3);
  SpikeHistory history;
  for (int i = 0; i < 30; ++i) rule.take(50, history);
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(rule.take(i % 2 == 0 ? 1.0 : 3.0, history));
  EXPECT_EQ(history.norms.size(), 100U);
  const auto spike = rule.take(6, history);
  ASSERT_TRUE(spike);
  EXPECT_NEAR(spike->mean, 2, 1e-15);
  EXPECT_NEAR(spike->deviation, std::sqrt(100.0 / 99.0), 1e-15);
}

TEST(SpikeRule, TakesTenInARowForANewLevel) {
  const SpikeRule rule(3);
  SpikeHistory history = one_and_three(rule, 40);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(rule.take(100, history)) << i;
  EXPECT_EQ(history.in_row, 10);
  EXPECT_FALSE(rule.take(100, history));
  EXPECT_EQ(history.norms, std::vector<double>{100});
  EXPECT_EQ(history.in_row, 0);
  EXPECT_EQ(history.total, 10);
}

TEST(SpikeRule, AnUpdateEndsARow) {
  const SpikeRule rule(3);
  SpikeHistory history = one_and_three(rule, 40);
  for (int i = 0; i < 25; ++i) {
    EXPECT_TRUE(rule.take(100, history)) << i;
    if (i % 5 == 4) {
      EXPECT_FALSE(rule.take(2, history)) << i;
    }
  }
  EXPECT_EQ(history.total, 25);
}

TEST(SpikeRule, IsOffByDefault) {
  const SpikeRule rule(std::nullopt);
  SpikeHistory history;
  for (int i = 0; i < 50; ++i) EXPECT_FALSE(rule.take(i == 40 ? 1e9 : 1.0, history));
  EXPECT_TRUE(history.norms.empty());
}

}  // namespace spike_test
}  // namespace sft::train
