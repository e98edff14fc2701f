// The engine with frozen blocks: what they cost, where the backward ends, and what is reduced.
#include <gtest/gtest.h>

#include <cmath>

#include "sft/engine/engine.h"
#include "support/solo_communicator.h"
#include "support/tiny_engine.h"

namespace sft::engine {
namespace adapter_test {

using testing::tiny_adapter;
using testing::tiny_llama;

struct Fixture : testing::TinyEngine<testing::SoloCommunicator> {
  explicit Fixture(const model::AdapterSpec& adapter, EngineOptions options = {})
      : TinyEngine(options, tiny_llama(), &adapter) {}
};

model::AdapterSpec everywhere(double dropout = 0.0) {
  model::AdapterSpec adapter = tiny_adapter({});
  adapter.all_linear = true;
  adapter.lora_dropout = dropout;
  return adapter;
}

TEST(AdaptedEngine, FrozenBlocksHaveNoGradientBuffers) {
  const Fixture fixture(everywhere());
  // Embedding (61 x 32), three layers, final norm: all of the model is frozen.
  const int64_t layer = 32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 48 * 32 + 2 * 32;
  const int64_t adapters = 3 * (4 * 32 + (32 + 16 + 16 + 32) + 3 * (32 + 48));
  EXPECT_EQ(fixture.engine.num_parameters() - fixture.engine.num_trainable_parameters(),
            61 * 32 + 3 * layer + 32);
  EXPECT_EQ(fixture.engine.num_trainable_parameters(), 3 * adapters);
  EXPECT_EQ(fixture.engine.frozen_blocks().size(), 5U);
  EXPECT_EQ(fixture.engine.blocks().size(), 3U);
  for (const ParameterBlock& block : fixture.engine.frozen_blocks())
    EXPECT_FALSE(block.gradients().defined());
}

TEST(AdaptedEngine, FrozenWeightsAreHeldInBf16WhenAsked) {
  Fixture wide(everywhere()), narrow(everywhere(), {.frozen_dtype = c10::kBFloat16});
  for (std::size_t b = 0; b < wide.engine.frozen_blocks().size(); ++b) {
    const at::Tensor& rounded = narrow.engine.frozen_blocks()[b].parameters();
    EXPECT_EQ(rounded.scalar_type(), c10::kBFloat16);
    const at::Tensor& full = wide.engine.frozen_blocks()[b].parameters();
    EXPECT_EQ(2 * rounded.nbytes(), full.nbytes());
    full.copy_(full.to(c10::kBFloat16));
  }
  // Weights of bf16 values give the same bits whichever way they are held.
  const auto a = wide.gradients({wide.rows}), b = narrow.gradients({narrow.rows});
  EXPECT_EQ(wide.engine.metrics().loss, narrow.engine.metrics().loss);
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].equal(b[i])) << "block " << i;
}

TEST(AdaptedEngine, GradientMatchesTheSlopeOfTheLoss) {
  model::AdapterSpec with_magnitudes = everywhere(), saved = tiny_adapter({"v_proj", "down_proj"});
  with_magnitudes.use_dora = true;
  saved.modules_to_save = {"q_proj", "gate_proj"};  // beside frozen linears that are multiplied with them at once
  for (const model::AdapterSpec& adapter : {everywhere(), with_magnitudes, saved}) {
    const bool dora = adapter.use_dora;
    Fixture fixture(adapter);
    if (dora) fixture.engine.initialize_adapters(model::AdapterInit::kRandom, 3);
    const data::MicroBatch batch = data::pack(fixture.rows);
    fixture.gradients({fixture.rows});
    // DoRA's gradient takes the norm for a constant: it is the slope along the magnitudes alone.
    std::vector<at::Tensor> direction;
    double squares = 0;
    for (const ParameterBlock& block : fixture.engine.blocks()) {
      direction.push_back(block.gradients().clone());
      for (std::size_t i = 0; i < block.tensors().size(); ++i) {
        const auto [offset, numel] = block.placement(i);
        if (dora && block.tensors()[i].adapter != model::AdapterPart::kMagnitude)
          direction.back().narrow(0, offset, numel).zero_();
      }
      squares += std::pow(direction.back().norm().item<double>(), 2);
    }
    const double step = 1e-3 / std::sqrt(squares);
    const auto loss_at = [&](double h) {
      for (std::size_t b = 0; b < direction.size(); ++b)
        fixture.engine.blocks()[b].parameters().add_(direction[b], h);
      const double loss = fixture.engine.evaluate(batch).loss / 100;
      for (std::size_t b = 0; b < direction.size(); ++b)
        fixture.engine.blocks()[b].parameters().add_(direction[b], -h);
      return loss;
    };
    const double slope = (loss_at(step) - loss_at(-step)) / (2 * step);
    EXPECT_NEAR(slope, squares, 2e-2 * squares) << (dora ? "DoRA" : "LoRA");
  }
}

TEST(AdaptedEngine, GradientDoesNotDependOnHowRowsAreCut) {
  Fixture fixture(everywhere(0.3));
  const auto& r = fixture.rows;
  const auto whole = fixture.gradients({r}),
             cut = fixture.gradients({{r[0]}, {r[1], r[2], r[3]}, {}, {r[4], r[5]}});
  for (std::size_t b = 0; b < whole.size(); ++b)
    EXPECT_LT(cut[b].sub(whole[b]).norm().item<double>(), 1e-5 * whole[b].norm().item<double>())
        << "block " << b;
}

TEST(AdaptedEngine, RecomputedActivationsGiveTheSameBits) {
  Fixture kept(everywhere(0.3)), recomputed(everywhere(0.3), {.gradient_checkpointing = true});
  const auto a = kept.gradients({kept.rows}), b = recomputed.gradients({recomputed.rows});
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].equal(b[i])) << "block " << i;
}

// A kept input is multiplied by 1 / (1 - p), so over many seeds the adapted output has the mean it has
// without dropout.
TEST(AdaptedEngine, DropoutKeepsTheMeanAndIsOffInEvaluation) {
  model::AdapterSpec plain = tiny_adapter({"v_proj"}), dropping = plain;
  dropping.lora_dropout = 0.4;
  const auto loss = [](const model::AdapterSpec& adapter, uint64_t seed) {
    Fixture fixture(adapter, {.seed = seed});
    for (const ParameterBlock& block : fixture.engine.blocks())
      block.parameters().mul_(0.1);  // nearly linear
    fixture.gradients({fixture.rows});
    const double evaluated = fixture.engine.evaluate(data::pack(fixture.rows)).loss;
    return std::pair(fixture.engine.metrics().loss, evaluated);
  };
  const auto [without, evaluated] = loss(plain, 0);
  constexpr int kSeeds = 40;
  double sum = 0, squares = 0;
  for (int seed = 0; seed < kSeeds; ++seed) {
    const auto [dropped, also_evaluated] = loss(dropping, static_cast<uint64_t>(seed));
    EXPECT_NE(dropped, without);
    EXPECT_EQ(also_evaluated, evaluated);
    sum += dropped - without;
    squares += (dropped - without) * (dropped - without);
  }
  const double mean = sum / kSeeds, deviation = std::sqrt(squares / kSeeds - mean * mean);
  EXPECT_GT(deviation, 0);
  EXPECT_LT(std::abs(mean), 4 * deviation / std::sqrt(double{kSeeds}) + 1e-4 * without);
}

// Layers below the first adapter are not walked back, and neither is the embedding: only what is trained is
// reduced.
TEST(AdaptedEngine, BackwardEndsAtTheLowestAdapter) {
  model::AdapterSpec adapter = tiny_adapter({"1.self_attn.q_proj", "2.mlp.up_proj"});
  adapter.modules_to_save = {"model.norm"};
  Fixture fixture(adapter);
  fixture.comm.report_size(2);
  const auto gradients = fixture.gradients({fixture.rows});
  ASSERT_EQ(gradients.size(), 3U);  // layers 1 and 2, the head's norm
  std::vector<std::string> expected;
  for (const char* verb : {"start ", "wait "}) {
    for (auto block = fixture.engine.blocks().rbegin(); block != fixture.engine.blocks().rend(); ++block)
      expected.push_back(verb + std::to_string(block->size()));
  }
  EXPECT_EQ(fixture.comm.calls(), expected);
  for (const at::Tensor& gradient : gradients) EXPECT_GT(gradient.norm().item<double>(), 0);
}

TEST(AdaptedEngine, AFreshAdapterChangesNothingUntilItIsTrained) {
  Fixture fixture(everywhere());
  testing::TinyEngine<testing::SoloCommunicator> bare;
  fixture.engine.initialize_adapters(model::AdapterInit::kKaiming, 7);
  // The two draw other weights and rows: give both the same.
  std::size_t b = 0;
  for (const ParameterBlock& block : bare.engine.blocks()) {
    const ParameterBlock& frozen = fixture.engine.frozen_blocks()[b++];
    ASSERT_EQ(frozen.size(), block.size());
    frozen.parameters().copy_(block.parameters());
  }
  const data::MicroBatch batch = data::pack(fixture.rows);
  EXPECT_EQ(fixture.engine.evaluate(batch).loss, bare.engine.evaluate(batch).loss);
  const auto gradients = fixture.gradients({fixture.rows});
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const ParameterBlock& block = fixture.engine.blocks()[i];
    for (std::size_t t = 0; t < block.tensors().size(); ++t) {
      const double norm = block.views().grads[t].norm().item<double>();
      const bool is_a = block.tensors()[t].adapter == model::AdapterPart::kA;
      EXPECT_EQ(norm == 0, is_a) << block.tensors()[t].name;
    }
  }
}

TEST(AdaptedEngine, MergedWeightsGiveTheAdaptedModelsLoss) {
  for (const bool dora : {false, true}) {
    model::AdapterSpec adapter = everywhere();
    adapter.use_dora = dora;
    Fixture fixture(adapter);
    fixture.engine.initialize_adapters(model::AdapterInit::kRandom, 5);
    const data::MicroBatch batch = data::pack(fixture.rows);
    const double adapted = fixture.engine.evaluate(batch).loss;
    fixture.engine.merge_adapters();
    for (const ParameterBlock& block : fixture.engine.blocks()) {
      for (std::size_t t = 0; t < block.tensors().size(); ++t) {
        if (block.tensors()[t].adapter == model::AdapterPart::kB) block.views().weights[t].zero_();
      }
    }
    EXPECT_NEAR(fixture.engine.evaluate(batch).loss, adapted, 1e-5 * adapted);
  }
}

}  // namespace adapter_test
}  // namespace sft::engine
