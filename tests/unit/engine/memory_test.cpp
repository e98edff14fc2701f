// What a step allocates: the same every time, and no more than its plan says.
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "sft/engine/engine.h"
#include "sft/optim/optimizer.h"
#include "support/allocation_log.h"
#include "support/solo_communicator.h"
#include "support/tiny_engine.h"

namespace sft::engine {
namespace {

using testing::Allocations;
using testing::allocations_of;

constexpr int64_t kFloat = 4;  // bytes

struct Fixture : testing::TinyEngine<testing::SoloCommunicator> {
  explicit Fixture(EngineOptions options = {}, model::DecoderSpec spec = testing::tiny_llama())
      : TinyEngine(options, spec) {}

  void train_on(const data::MicroBatch& batch) {
    engine.zero_grad();
    engine.forward_backward(batch, 1.0 / 100, /*last_of_window=*/true);
    engine.finish_reduction();
    engine.metrics();
  }
};

// `rows` rows of 60 tokens.
data::MicroBatch long_batch(int64_t rows) {
  std::mt19937 random(2);
  std::vector<data::TokenRow> all;
  for (int64_t i = 0; i < rows; ++i) all.push_back(testing::random_row(random, 60, 2 * i));
  return data::pack(all);
}

model::DecoderSpec llama_of(int64_t layers) {
  model::DecoderSpec spec = testing::tiny_llama();
  spec.num_hidden_layers = layers;
  spec.layers.resize(static_cast<std::size_t>(layers));
  return spec;
}

int64_t peak_of_a_step(const EngineOptions& options, int64_t layers, const data::MicroBatch& batch) {
  Fixture fixture(options, llama_of(layers));
  return allocations_of([&] { fixture.train_on(batch); }).peak;
}

TEST(StepMemory, EveryStepAllocatesTheSameAndKeepsNothing) {
  for (const bool recompute : {false, true}) {
    Fixture fixture({.gradient_checkpointing = recompute, .loss = {.token_metrics = true}});
    const data::MicroBatch batch = long_batch(5);
    const auto step = [&] { fixture.train_on(batch); };
    const int64_t after_first = allocations_of(step).live;
    const Allocations second = allocations_of(step), third = allocations_of(step);
    EXPECT_GT(second.sizes.size(), 50U) << "the allocator reports nothing";
    EXPECT_EQ(second.sizes, third.sizes);
    EXPECT_EQ(second.peak, third.peak);
    EXPECT_EQ(second.live, 0);
    EXPECT_EQ(third.live, 0);
    EXPECT_LT(after_first, 1024) << "only the sums of the window";
  }
}

TEST(StepMemory, LogitsAreOneChunkHoweverManyTargets) {
  const int64_t chunk = ops::HeadOptions{}.chunk, bytes = chunk * testing::tiny_llama().vocab_size * kFloat;
  for (const int64_t rows : {10, 30, 60}) {
    Fixture fixture;
    const data::MicroBatch batch = long_batch(rows);
    ASSERT_GT(batch.num_targets(), chunk);
    const Allocations step = allocations_of([&] { fixture.train_on(batch); });
    EXPECT_EQ(std::ranges::count(step.sizes, bytes), 1) << rows << " rows";
    const int64_t all_logits = batch.num_targets() * testing::tiny_llama().vocab_size * kFloat;
    EXPECT_EQ(std::ranges::count(step.sizes, all_logits), 0) << rows << " rows";
  }
}

// What is dear to compute again: the layer's input, q k v, the attention's output and sums, the residual sum,
// gate and up, and the norms' factors.
TEST(StepMemory, ALayerKeepsWhatIsDearToComputeAgain) {
  const data::MicroBatch batch = long_batch(8);
  const model::DecoderSpec spec = testing::tiny_llama();
  const int64_t heads = spec.num_attention_heads * spec.head_dim,
                kv_heads = spec.num_key_value_heads * spec.head_dim;
  const int64_t of_a_token = spec.hidden_size + (heads + 2 * kv_heads) + heads + spec.num_attention_heads +
                             spec.hidden_size + 2 * spec.intermediate_size + 2;
  EXPECT_EQ(peak_of_a_step({}, 6, batch) - peak_of_a_step({}, 3, batch),
            3 * batch.num_tokens() * of_a_token * kFloat);
}

// In bf16 what only products read, and gate and up, are kept in 16 bits where the processor multiplies bf16.
TEST(StepMemory, Bf16KeepsHalfOfWhatProductsRead) {
  const data::MicroBatch batch = long_batch(8);
  const model::DecoderSpec spec = testing::tiny_llama();
  const at::Tensor sample = ops::operand(at::zeros({1}), ops::ComputeDtype::kBf16);
  const int64_t heads = spec.num_attention_heads * spec.head_dim,
                kv_heads = spec.num_key_value_heads * spec.head_dim;
  const int64_t rounded = heads + 2 * kv_heads + heads + 2 * spec.intermediate_size;
  const int64_t whole = 2 * spec.hidden_size + 2;  // and sums of attention, by the kernel that serves
  const int64_t of_a_token = rounded * sample.element_size() + whole * kFloat;
  const EngineOptions options{.compute = ops::ComputeDtype::kBf16};
  const int64_t per_layer = (peak_of_a_step(options, 6, batch) - peak_of_a_step(options, 3, batch)) / 3;
  EXPECT_GE(per_layer, batch.num_tokens() * of_a_token);
  EXPECT_LE(per_layer, batch.num_tokens() * (of_a_token + 4 * spec.num_attention_heads * kFloat));
}

// Recomputed, a further layer costs its input alone: the activations of one layer exist at a time.
TEST(StepMemory, RecomputingLeavesTheActivationsOfOneLayer) {
  const data::MicroBatch batch = long_batch(8);
  const EngineOptions recomputed{.gradient_checkpointing = true};
  const int64_t input = batch.num_tokens() * testing::tiny_llama().hidden_size * kFloat;
  EXPECT_EQ(peak_of_a_step(recomputed, 6, batch) - peak_of_a_step(recomputed, 3, batch), 3 * input);
  EXPECT_LT(peak_of_a_step(recomputed, 6, batch), peak_of_a_step({}, 3, batch));
}

TEST(StepMemory, TheUpdateAllocatesNoTensor) {
  Fixture fixture;
  fixture.train_on(long_batch(1));
  for (const char* name : {"adamw_torch", "sgd", "lion_32bit"}) {
    config::OptimizerOptions options;
    options.optim = name;
    std::vector<optim::FlatRange> ranges;
    for (const ParameterBlock& block : fixture.engine.blocks())
      ranges.push_back({block.parameters(), block.gradients(), block.num_decayed(), {}});
    const auto optimizer = optim::Optimizer::create(options, std::move(ranges), 0);
    optimizer->step(1e-3, 0.5);
    EXPECT_EQ(allocations_of([&] { optimizer->step(1e-3, 0.5); }).sizes, std::vector<int64_t>()) << name;
  }
}

}  // namespace
}  // namespace sft::engine
