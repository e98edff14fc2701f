#include "sft/engine/engine.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/solo_communicator.h"
#include "support/tiny_engine.h"

namespace sft::engine {
namespace {

using testing::tiny_llama;

struct Fixture : testing::TinyEngine<testing::SoloCommunicator> {
  explicit Fixture(EngineOptions options = {}, model::DecoderSpec spec = tiny_llama())
      : TinyEngine(options, spec) {}
};

double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  return a.sub(b).norm().item<double>() / b.norm().item<double>();
}

TEST(Engine, GradientAndLossDoNotDependOnHowRowsAreCut) {
  Fixture fixture;
  const auto& r = fixture.rows;
  const auto whole = fixture.gradients({r});
  const StepMetrics whole_metrics = fixture.engine.metrics();
  const auto cut = fixture.gradients({{r[0]}, {r[1], r[2], r[3]}, {}, {r[4], r[5]}});
  const StepMetrics cut_metrics = fixture.engine.metrics();
  EXPECT_NEAR(cut_metrics.loss_sum, whole_metrics.loss_sum, 1e-6 * whole_metrics.loss_sum);
  EXPECT_NEAR(cut_metrics.grad_norm, whole_metrics.grad_norm, 1e-5 * whole_metrics.grad_norm);
  EXPECT_GT(whole_metrics.grad_norm, 1e-3);
  for (std::size_t b = 0; b + 1 < whole.size(); ++b)
    EXPECT_LT(relative_difference(cut[b], whole[b]), 1e-5) << "block " << b;
}

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
    const double loss = fixture.engine.evaluate(batch) / 100;
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
  EXPECT_NEAR(fixture.engine.evaluate(data::pack(fixture.rows)), fixture.engine.metrics().loss_sum, 1e-4);
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

TEST(Engine, NonFiniteGradientIsSeen) {
  Fixture fixture;
  fixture.engine.blocks()[1].parameters()[3].fill_(std::nanf(""));
  fixture.gradients({fixture.rows});
  EXPECT_FALSE(fixture.engine.metrics().finite);
}

}  // namespace
}  // namespace sft::engine
