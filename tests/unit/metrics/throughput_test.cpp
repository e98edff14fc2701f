#include "sft/metrics/throughput.h"

#include <gtest/gtest.h>

namespace sft::metrics {
namespace throughput_test {

// One layer counted by hand: products of the forward pass in multiply-adds, times 2 operations, times 3 for
// the backward pass.
TEST(TrainingFlops, EqualsACountByHand) {
  constexpr int64_t kHidden = 8, kHeads = 2, kHeadDim = 4, kMlp = 16, kVocabulary = 100, kLayers = 3;
  const ModelWork model{kLayers * (4 * kHidden * kHeads * kHeadDim + 3 * kHidden * kMlp),
                        kHidden * kVocabulary, kLayers, kHeads, kHeadDim};
  const int64_t lengths[] = {5, 9};
  double multiply_adds = 0, squares = 0;
  for (const int64_t length : lengths) {
    const double projections = 4.0 * kHidden * kHeads * kHeadDim, mlp = 3.0 * kHidden * kMlp;
    // Scores and weighted values: half of length x length, per head.
    const double attention = 2.0 * kHeads * kHeadDim * static_cast<double>(length * length) / 2;
    multiply_adds += kLayers * (static_cast<double>(length) * (projections + mlp) + attention);
    multiply_adds += static_cast<double>(length - 1) * kHidden * kVocabulary;  // one target less than tokens
    squares += static_cast<double>(length * length);
  }
  EXPECT_DOUBLE_EQ(training_flops(model, {14, 12, squares}), 2 * 3 * multiply_adds);
}

TEST(TrainingFlops, FrozenWeightsTakeNoWeightGradient) {
  ModelWork work;
  work.block_linear_parameters = 100;
  work.head_parameters = 10;
  work.frozen_block_linear_parameters = 90;
  work.head_is_frozen = true;
  // 2 of the 6 operations a weight and token cost are the weight's gradient.
  EXPECT_EQ(training_flops(work, {.num_tokens = 7, .num_targets = 3}), (6 * 10 + 4 * 90) * 7 + 4 * 10 * 3);
}

TEST(TrainingFlops, DoNotOverflow) {
  const ModelWork model{int64_t{400'000'000'000}, int64_t{4'000'000'000}, 126, 128, 128};
  EXPECT_GT(training_flops(model, {int64_t{16'000'000}, int64_t{16'000'000}, 1e12}), 3.8e19);
}

TEST(Throughput, IsZeroWithoutTimeOrPeak) {
  EXPECT_DOUBLE_EQ(tokens_per_second(100, 4.0), 25.0);
  EXPECT_EQ(tokens_per_second(100, 0.0), 0.0);
  EXPECT_DOUBLE_EQ(model_flops_utilisation(1e12, 2.0, 2e12), 0.25);
  EXPECT_EQ(model_flops_utilisation(1e12, 2.0, 0.0), 0.0);
}

}  // namespace throughput_test
}  // namespace sft::metrics
