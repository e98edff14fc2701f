#include "sft/engine/engine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "support/solo_communicator.h"

namespace sft::engine {
namespace {

model::DecoderSpec tiny_llama() {
  model::DecoderSpec spec;
  spec.model_type = "llama";
  spec.vocab_size = 61;
  spec.hidden_size = spec.embedding_size = 32;
  spec.num_hidden_layers = 3;
  spec.num_attention_heads = 4;
  spec.num_key_value_heads = 2;
  spec.head_dim = 8;
  spec.intermediate_size = 48;
  spec.max_position_embeddings = 64;
  spec.norm_kind = ops::NormKind::kRmsNorm;
  spec.tie_word_embeddings = true;
  return spec;
}

data::TokenRow random_row(std::mt19937& random, int64_t length, int64_t position) {
  data::TokenRow row;
  row.id = {.epoch = 0, .position = position, .row = position};
  for (int64_t i = 0; i < length; ++i) row.input_ids.push_back(static_cast<int32_t>(random() % 61));
  row.labels = row.input_ids;
  if (position % 2 == 1) row.labels[static_cast<std::size_t>(length / 2)] = data::kIgnoreIndex;
  return row;
}

struct Fixture {
  explicit Fixture(EngineOptions options = {}, model::DecoderSpec spec = tiny_llama())
      : decoder(model::Decoder::create(spec)), engine(*decoder, options, comm, timers) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 0.2F);
    for (const ParameterBlock& block : engine.blocks()) {
      for (const at::Tensor& weight : block.views().weights) {
        float* values = weight.data_ptr<float>();
        for (int64_t i = 0; i < weight.numel(); ++i) values[i] = weight.dim() == 1 ? 1 + 0.1F * normal(random) : normal(random);
      }
    }
    for (int64_t i = 0; i < 6; ++i) rows.push_back(random_row(random, 5 + 3 * i, i));
  }

  // Gradients of all blocks after training on the rows cut into these micro-batches.
  std::vector<at::Tensor> gradients(const std::vector<std::vector<data::TokenRow>>& micro_batches) {
    engine.zero_grad();
    for (std::size_t i = 0; i < micro_batches.size(); ++i) {
      engine.forward_backward(data::pack(micro_batches[i]), 1.0 / 100, i + 1 == micro_batches.size());
    }
    engine.finish_reduction();
    std::vector<at::Tensor> result;
    for (const ParameterBlock& block : engine.blocks()) result.push_back(block.gradients().clone());
    return result;
  }

  testing::SoloCommunicator comm;
  base::PhaseTimers timers;
  std::unique_ptr<model::Decoder> decoder;
  Engine engine;
  std::vector<data::TokenRow> rows;
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
  for (std::size_t b = 0; b + 1 < whole.size(); ++b) EXPECT_LT(relative_difference(cut[b], whole[b]), 1e-5) << "block " << b;
}

TEST(Engine, GradientMatchesTheSlopeOfTheLoss) {
  Fixture fixture;
  const data::MicroBatch batch = data::pack(fixture.rows);
  fixture.gradients({fixture.rows});
  // Along the gradient g the loss falls by h |g|^2 for a small step h.
  double squares = 0;
  for (const ParameterBlock& block : fixture.engine.blocks()) squares += std::pow(block.gradients().norm().item<double>(), 2);
  const double step = 1e-3 / std::sqrt(squares);
  const auto loss_at = [&](double h) {
    for (const ParameterBlock& block : fixture.engine.blocks()) block.parameters().add_(block.gradients(), h);
    const double loss = fixture.engine.evaluate(batch) / 100;
    for (const ParameterBlock& block : fixture.engine.blocks()) block.parameters().add_(block.gradients(), -h);
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

// Every block's sum is under way before any is waited for: head first, embedding last, and only in the window's last micro-batch.
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
