// A small Llama in an engine, for tests of the engine on one or several ranks.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <memory>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "sft/engine/engine.h"

namespace sft::testing {

inline model::DecoderSpec tiny_llama() {
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
  spec.ropes = {model::RopeSpec{}};
  spec.ropes[0].rotary_dim = spec.head_dim;
  spec.layers.resize(static_cast<std::size_t>(spec.num_hidden_layers));
  return spec;
}

// The same with two of four experts for each token and one for all, but for its first layer.
inline model::DecoderSpec tiny_mixture() {
  model::DecoderSpec spec = tiny_llama();
  spec.model_type = "qwen2_moe";
  spec.mixture = model::MixtureSpec{
      .num_experts = 4, .num_experts_per_tok = 2, .expert_size = 24, .shared_expert_size = 16};
  for (std::size_t layer = 1; layer < spec.layers.size(); ++layer) spec.layers[layer].has_experts = true;
  return spec;
}

inline model::AdapterSpec tiny_adapter(std::vector<std::string> targets) {
  model::AdapterSpec adapter;
  adapter.r = 3;
  adapter.lora_alpha = 6;
  adapter.target_modules = std::move(targets);
  return adapter;
}

inline data::TokenRow random_row(std::mt19937& random, int64_t length, int64_t position) {
  data::TokenRow row;
  row.id = {.epoch = 0, .position = position, .row = position};
  for (int64_t i = 0; i < length; ++i) row.input_ids.push_back(static_cast<int32_t>(random() % 61));
  row.labels = row.input_ids;
  if (position % 2 == 1) row.labels[static_cast<std::size_t>(length / 2)] = data::kIgnoreIndex;
  return row;
}

// An engine with random weights, the same on every rank, and six rows of different lengths. Communicator:
// made here, or given by reference. With an adapter, the model's own weights are the same as without.
template <typename Communicator>
struct TinyEngine {
  template <typename... CommunicatorArgs>
  requires(!std::is_pointer_v<std::remove_cvref_t<CommunicatorArgs>> &&
           ...) explicit TinyEngine(engine::EngineOptions options = {},
                                    model::DecoderSpec spec = tiny_llama(), CommunicatorArgs&&... args)
      : TinyEngine(options, spec, static_cast<const model::AdapterSpec*>(nullptr),
                   std::forward<CommunicatorArgs>(args)...) {}

  template <typename... CommunicatorArgs>
  TinyEngine(engine::EngineOptions options, model::DecoderSpec spec, const model::AdapterSpec* adapter,
             CommunicatorArgs&&... args)
      : comm(args...),
        decoder(model::Decoder::create(spec, adapter)),
        engine(*decoder, options, comm, timers) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 0.2F);
    for (const auto* blocks : {&engine.frozen_blocks(), &engine.blocks()}) {
      for (const engine::ParameterBlock& block : *blocks) {
        for (const at::Tensor& weight : block.views().weights) {
          const at::Tensor values = at::empty({weight.numel()}, at::TensorOptions(at::kFloat));
          for (int64_t i = 0; i < weight.numel(); ++i)
            values.data_ptr<float>()[i] = weight.dim() == 1 ? 1 + 0.1F * normal(random) : normal(random);
          at::Tensor(weight).copy_(values.view(weight.sizes()));
        }
      }
    }
    for (int64_t i = 0; i < 6; ++i) rows.push_back(random_row(random, 5 + 3 * i, i));
  }

  // Gradients of all blocks after training on the rows cut into these micro-batches.
  std::vector<at::Tensor> gradients(const std::vector<std::vector<data::TokenRow>>& micro_batches) {
    engine.zero_grad();
    for (std::size_t i = 0; i < micro_batches.size(); ++i) {
      engine.forward_backward(data::pack(micro_batches[i]), kLossScale, i + 1 == micro_batches.size(),
                              aux_scale);
    }
    engine.finish_reduction();
    std::vector<at::Tensor> result;
    for (const engine::ParameterBlock& block : engine.blocks()) result.push_back(block.gradients().clone());
    return result;
  }

  static constexpr double kLossScale = 1.0 / 100;
  Communicator comm;
  base::PhaseTimers timers;
  std::unique_ptr<model::Decoder> decoder;
  engine::Engine engine;
  std::vector<data::TokenRow> rows;
  double aux_scale = 0;  // of the load-balancing loss
};

}  // namespace sft::testing
