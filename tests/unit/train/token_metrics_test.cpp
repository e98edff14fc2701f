#include "sft/train/token_metrics.h"

#include <gtest/gtest.h>

#include <array>

namespace sft::train {
namespace token_metrics_test {

constexpr std::array<engine::TokenSums, 3> kWindow{{{8, 2, 16}, {0, 0, 0}, {2, 1, 1}}};

TEST(TokenMetrics, EveryTargetCountsAlike) {
  TokenMetrics metrics;
  metrics.add(kWindow, /*trl_compat=*/false);
  const metrics::Values expected{{"entropy", 1.7}, {"mean_token_accuracy", 0.3}};
  EXPECT_EQ(metrics.values(), expected);
}

TEST(TokenMetrics, TrlCountsEveryMicroBatchAlike) {
  TokenMetrics metrics;
  metrics.add(kWindow, /*trl_compat=*/true);
  const metrics::Values expected{{"eval_entropy", 2.5 / 3}, {"eval_mean_token_accuracy", 0.25}};
  EXPECT_EQ(metrics.values("eval_"), expected);
}

TEST(TokenMetrics, NothingIsZero) {
  const metrics::Values expected{{"entropy", 0.0}, {"mean_token_accuracy", 0.0}};
  EXPECT_EQ(TokenMetrics{}.values(), expected);
}

}  // namespace token_metrics_test
}  // namespace sft::train
