#include "sft/engine/engine.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/log_softmax.h>
#include <gtest/gtest.h>

#include <cmath>

#include "support/solo_communicator.h"
#include "support/tiny_engine.h"

namespace sft::engine {
namespace engine_test {

using testing::tiny_llama;
using testing::tiny_mixture;

struct Fixture : testing::TinyEngine<testing::SoloCommunicator> {
  explicit Fixture(EngineOptions options = {}, model::DecoderSpec spec = tiny_llama())
      : TinyEngine(options, spec) {}
};

double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  return a.sub(b).norm().item<double>() / b.norm().item<double>();
}

struct CutCase {
  int64_t head_dim;  // which decides whose attention kernels serve
  ops::ComputeDtype compute;
  double loss, gradient;  // bounds
};

class EngineCut : public ::testing::TestWithParam<CutCase> {};

TEST_P(EngineCut, GradientAndLossDoNotDependOnHowRowsAreCut) {
  const CutCase& c = GetParam();
  model::DecoderSpec spec = tiny_llama();
  spec.head_dim = spec.ropes[0].rotary_dim = c.head_dim;
  Fixture fixture({.compute = c.compute}, spec);
  const auto& r = fixture.rows;
  const auto whole = fixture.gradients({r});
  const StepMetrics whole_metrics = fixture.engine.metrics();
  const auto cut = fixture.gradients({{r[0]}, {r[1], r[2], r[3]}, {}, {r[4], r[5]}});
  const StepMetrics cut_metrics = fixture.engine.metrics();
  EXPECT_NEAR(cut_metrics.loss, whole_metrics.loss, c.loss * whole_metrics.loss);
  EXPECT_NEAR(cut_metrics.grad_norm, whole_metrics.grad_norm, c.gradient * whole_metrics.grad_norm);
  EXPECT_GT(whole_metrics.grad_norm, 1e-3);
  for (std::size_t b = 0; b < whole.size(); ++b)
    EXPECT_LT(relative_difference(cut[b], whole[b]), c.gradient) << "block " << b;
}

INSTANTIATE_TEST_SUITE_P(Cases, EngineCut,
                         ::testing::Values(CutCase{8, ops::ComputeDtype::kFp32, 1e-6, 1e-5},
                                         CutCase{16, ops::ComputeDtype::kFp32, 1e-6, 1e-5},
                                         CutCase{8, ops::ComputeDtype::kBf16, 1e-4, 1e-2},
                                         CutCase{16, ops::ComputeDtype::kBf16, 1e-4, 1e-2}));

TEST(Engine, GradientMatchesTheSlopeOfTheLoss) {
  Fixture fixture;
  const data::MicroBatch batch = data::pack(fixture.rows);
  fixture.gradients({fixture.rows});
  // Along the gradient g the loss falls by h |g|^2 for a small step h.
  double squares = 0;
  for (const ParameterBlock& block : fixture.engine.blocks())
    squares += std::pow(block.gradients().norm().item<double>(), 2);
  const double step = 1e-3 / std::sqrt(squares);
  const auto loss_at = [&](double h) {
    for (const ParameterBlock& block : fixture.engine.blocks()) block.parameters().add_(block.gradients(), h);
    const double loss = fixture.engine.evaluate(batch).loss / 100;
    for (const ParameterBlock& block : fixture.engine.blocks())
      block.parameters().add_(block.gradients(), -h);
    return loss;
  };
  const double slope = (loss_at(step) - loss_at(-step)) / (2 * step);
  EXPECT_NEAR(slope, squares, 2e-2 * squares);
}

TEST(Engine, RecomputedActivationsGiveTheSameBits) {
  Fixture kept, recomputed({.gradient_checkpointing = true});
  const auto a = kept.gradients({kept.rows}), b = recomputed.gradients({recomputed.rows});
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].equal(b[i])) << "block " << i;
}

TEST(Engine, RecomputedActivationsSeeTheSameDropout) {
  model::DecoderSpec spec = tiny_llama();
  spec.attention_dropout = 0.2;
  Fixture kept({}, spec), recomputed({.gradient_checkpointing = true}, spec);
  const auto a = kept.gradients({kept.rows}), b = recomputed.gradients({recomputed.rows});
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].equal(b[i])) << "block " << i;
}

TEST(Engine, EvaluationLossIsTheTrainingLoss) {
  Fixture fixture;
  fixture.gradients({fixture.rows});
  EXPECT_NEAR(fixture.engine.evaluate(data::pack(fixture.rows)).loss * Fixture::kLossScale,
              fixture.engine.metrics().loss, 1e-6);
}

// Every block's sum is under way before any is waited for: head first, embedding last, and only in the
// window's last micro-batch.
TEST(Engine, ReductionsStartInBlockOrderAndAreWaitedForAtTheEnd) {
  for (const bool last_is_empty : {false, true}) {
    Fixture fixture;
    fixture.comm.report_size(2);
    std::vector<std::vector<data::TokenRow>> micro_batches{{fixture.rows[0]}, {fixture.rows[1]}};
    if (last_is_empty) micro_batches.push_back({});
    fixture.gradients(micro_batches);
    std::vector<std::string> expected;
    for (const char* verb : {"start ", "wait "}) {
      for (auto block = fixture.engine.blocks().rbegin(); block != fixture.engine.blocks().rend(); ++block) {
        expected.push_back(verb + std::to_string(block->size()));
      }
    }
    EXPECT_EQ(fixture.comm.calls(), expected);
  }
}

TEST(Engine, TokenSumsAreThoseOfTheMicroBatches) {
  Fixture fixture({.loss = {.token_metrics = true}});
  const auto& r = fixture.rows;
  fixture.gradients({{r[0], r[1]}, {}, {r[2], r[3], r[4], r[5]}});
  const auto counted = fixture.engine.metrics().micro_batches;
  ASSERT_EQ(counted.size(), 3U);
  EXPECT_EQ(counted[1].num_targets, 0);
  EXPECT_EQ(counted[1].entropy, 0);
  for (const auto& [index, rows] :
       {std::pair(0, std::vector{r[0], r[1]}), std::pair(2, std::vector(r.begin() + 2, r.end()))}) {
    const data::MicroBatch batch = data::pack(rows);
    const at::Tensor log_p = at::log_softmax(
        fixture.engine.logits(batch).index_select(0, batch.target_positions).to(at::kDouble), 1);
    const TokenSums& sums = counted[static_cast<std::size_t>(index)];
    EXPECT_EQ(sums.num_targets, static_cast<double>(batch.num_targets()));
    EXPECT_EQ(sums.num_right, log_p.argmax(1).eq(batch.target_ids).sum().item<double>());
    EXPECT_NEAR(sums.entropy, -(log_p.exp() * log_p).sum().item<double>(), 1e-4);
    const TokenSums evaluated = fixture.engine.evaluate(batch).tokens;
    EXPECT_EQ(evaluated.num_right, sums.num_right);
    EXPECT_EQ(evaluated.entropy, sums.entropy);
  }
  fixture.gradients({r});
  EXPECT_EQ(fixture.engine.metrics().micro_batches.size(), 1U) << "sums of an earlier window were kept";
  for (const TokenSums& sums : fixture.engine.metrics(/*count_tokens=*/false).micro_batches)
    EXPECT_EQ(sums.num_targets + sums.num_right + sums.entropy, 0);
}

TEST(Engine, MicroBatchesWithoutTargetsAreHarmless) {
  for (const auto kind : {ops::LossKind::kNll, ops::LossKind::kDft}) {
    Fixture fixture({.loss = {.kind = kind, .token_metrics = true}});
    data::TokenRow row = fixture.rows[0];
    std::fill(row.labels.begin(), row.labels.end(), data::kIgnoreIndex);
    for (const at::Tensor& gradient : fixture.gradients({{row}, {}}))
      EXPECT_EQ(gradient.count_nonzero().item<int64_t>(), 0);
    const StepMetrics metrics = fixture.engine.metrics();
    EXPECT_TRUE(metrics.finite);
    EXPECT_EQ(metrics.loss, 0);
    EXPECT_EQ(fixture.engine.evaluate(data::pack({row})).loss, 0);
  }
}

TEST(Engine, LossOptionsReachTheHead) {
  const auto loss = [](ops::LossOptions options) {
    Fixture fixture({.loss = options});
    fixture.gradients({fixture.rows});
    const double trained = fixture.engine.metrics().loss;
    EXPECT_NEAR(fixture.engine.evaluate(data::pack(fixture.rows)).loss * Fixture::kLossScale, trained, 1e-6);
    return trained;
  };
  const double nll = loss({}), dft = loss({.kind = ops::LossKind::kDft}),
               smoothed = loss({.label_smoothing = 0.2});
  EXPECT_LT(dft, 0.8 * nll);
  EXPECT_GT(std::abs(smoothed - nll), 1e-3 * nll);
}

TEST(Engine, NoiseIsInTrainingOnlyAndDoesNotDependOnHowRowsAreCut) {
  Fixture quiet, noisy({.neftune_alpha = 20});
  const auto& r = noisy.rows;
  const auto calm = quiet.gradients({r}), whole = noisy.gradients({r});
  const double loss = noisy.engine.metrics().loss;
  const auto cut = noisy.gradients({{r[0]}, {r[1], r[2], r[3]}, {}, {r[4], r[5]}});
  EXPECT_NEAR(noisy.engine.metrics().loss, loss, 1e-6 * loss);
  for (std::size_t b = 0; b + 1 < whole.size(); ++b) {
    EXPECT_LT(relative_difference(cut[b], whole[b]), 1e-5) << "block " << b;
    EXPECT_GT(relative_difference(whole[b], calm[b]), 1e-2) << "block " << b;
  }
  const data::MicroBatch batch = data::pack(r);
  EXPECT_EQ(noisy.engine.evaluate(batch).loss, quiet.engine.evaluate(batch).loss);
}

struct MixtureFixture : Fixture {
  explicit MixtureFixture(EngineOptions options = {}) : Fixture(options, tiny_mixture()) { aux_scale = 0.5; }
};

TEST(MixtureEngine, RecomputedActivationsGiveTheSameBits) {
  MixtureFixture kept, recomputed({.gradient_checkpointing = true});
  const auto& r = kept.rows;
  const auto a = kept.gradients({{r[0], r[1]}, {r[2], r[3]}}),
             b = recomputed.gradients({{r[0], r[1]}, {r[2], r[3]}});
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].equal(b[i])) << "block " << i;
  EXPECT_EQ(recomputed.engine.metrics().aux_loss.sum, kept.engine.metrics().aux_loss.sum)
      << "counted once more when activations are computed again";
}

TEST(MixtureEngine, AuxLossesOfMicroBatchesAddUp) {
  MixtureFixture fixture;
  const auto& r = fixture.rows;
  fixture.gradients({{r[0], r[1]}, {}, {r[2], r[3], r[4], r[5]}});
  const double expected = fixture.engine.evaluate(data::pack({r[0], r[1]})).aux_loss.sum +
                          fixture.engine.evaluate(data::pack({r[2], r[3], r[4], r[5]})).aux_loss.sum;
  const StepMetrics metrics = fixture.engine.metrics();
  EXPECT_EQ(metrics.aux_loss.count, 2);
  EXPECT_NEAR(metrics.aux_loss.sum, expected, 1e-12);
  EXPECT_EQ(metrics.counted_aux_loss.sum, metrics.aux_loss.sum);
  EXPECT_GT(metrics.aux_loss.mean(), 2)
      << "2 of 4 experts: 2 where all are chosen alike, more where they are not";
  const StepMetrics left_out = fixture.engine.metrics(/*count_tokens=*/false);
  EXPECT_EQ(left_out.counted_aux_loss.count, 0);
  EXPECT_EQ(left_out.aux_loss.sum, metrics.aux_loss.sum);
  Fixture dense;
  dense.gradients({dense.rows});
  EXPECT_EQ(dense.engine.metrics().aux_loss.count, 0);
  EXPECT_EQ(dense.engine.evaluate(data::pack(r)).aux_loss.count, 0);
}

// Tokens without targets are balanced too, as long as that is wanted; along the gradient g the weighted loss
// grows by h |g|^2.
TEST(MixtureEngine, GradientOfRowsWithoutTargetsIsTheSlopeOfTheAuxLoss) {
  MixtureFixture fixture;
  std::vector<data::TokenRow> rows = fixture.rows;
  for (data::TokenRow& row : rows) std::fill(row.labels.begin(), row.labels.end(), data::kIgnoreIndex);
  const data::MicroBatch batch = data::pack(rows);
  double squares = 0;
  for (const at::Tensor& gradient : fixture.gradients({rows}))
    squares += std::pow(gradient.norm().item<double>(), 2);
  EXPECT_EQ(fixture.engine.metrics().loss, 0);
  ASSERT_GT(squares, 1e-6);
  const double step = 1e-4 / std::sqrt(squares);  // too little to send a token elsewhere
  const auto loss_at = [&](double h) {
    for (const ParameterBlock& block : fixture.engine.blocks()) block.parameters().add_(block.gradients(), h);
    const double loss = fixture.engine.evaluate(batch).aux_loss.sum;
    for (const ParameterBlock& block : fixture.engine.blocks())
      block.parameters().add_(block.gradients(), -h);
    return fixture.aux_scale * loss;
  };
  EXPECT_NEAR((loss_at(step) - loss_at(-step)) / (2 * step), squares, 2e-2 * squares);
  fixture.aux_scale = 0;
  for (const at::Tensor& gradient : fixture.gradients({rows}))
    EXPECT_EQ(gradient.count_nonzero().item<int64_t>(), 0);
}

TEST(Engine, NonFiniteGradientIsSeen) {
  Fixture fixture;
  fixture.engine.blocks()[1].parameters()[3].fill_(std::nanf(""));
  fixture.gradients({fixture.rows});
  EXPECT_FALSE(fixture.engine.metrics().finite);
}

}  // namespace engine_test
}  // namespace sft::engine
