#include "gemm_rate.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

#include "sft/base/timer.h"

namespace sft::train {
namespace {

constexpr int kPasses = 4;            // at least; the first one also warms up
constexpr double kMostSeconds = 0.2;  // for one shape, unless its passes are longer

GemmTime time_product(const LinearShape& shape, int64_t tokens, ops::ComputeDtype compute,
                      c10::Device device) {
  const auto options = at::TensorOptions().dtype(c10::kFloat).device(device);
  const at::Tensor x = at::full({tokens, shape.in}, 0.5, options),
                   weight = at::full({shape.out, shape.in}, 0.25, options);
  const at::Tensor grad_y = at::full({tokens, shape.out}, 0.125, options);
  const ops::LinearWeights weights{weight, {}};
  ops::LinearGrads grads;
  if (shape.weight_gradient) grads.weight = at::zeros({shape.out, shape.in}, options);

  double fastest = std::numeric_limits<double>::infinity(), spent = 0;
  for (int pass = 0; pass < kPasses || spent < kMostSeconds; ++pass) {
    const double start = base::monotonic_seconds();
    const at::Tensor y = ops::linear_forward(x, weights, compute);
    const at::Tensor grad_x = ops::linear_backward(grad_y, x, weights, grads, compute);
    if (device.is_cuda()) grad_x.select(0, 0).select(0, 0).item<float>();  // waits for the device
    const double seconds = base::monotonic_seconds() - start;
    fastest = std::min(fastest, seconds);
    spent += seconds;
  }
  const double products = shape.weight_gradient ? 3 : 2;
  const double flops = products * 2.0 * static_cast<double>(tokens) * static_cast<double>(shape.in) *
                       static_cast<double>(shape.out);
  return {shape, tokens, flops, fastest};
}

}  // namespace

std::vector<LinearShape> linear_shapes(const model::DecoderSpec& spec, const metrics::ModelWork& work) {
  const int64_t hidden = spec.hidden_size, heads = spec.num_attention_heads * spec.head_dim,
                kv_heads = spec.num_key_value_heads * spec.head_dim, layers = spec.num_hidden_layers;
  const int64_t mixtures = std::ranges::count_if(spec.layers, &model::LayerSpec::has_experts);
  const bool trained = work.frozen_block_linear_parameters == 0;
  std::vector<LinearShape> shapes{{"queries, keys, values", hidden, heads + 2 * kv_heads, layers, trained},
                                  {"attention output", heads, hidden, layers, trained}};
  const auto add_mlp = [&](const std::string& prefix, bool gated, int64_t inner, int64_t count,
                           double share) {
    if (inner == 0 || count == 0) return;
    shapes.push_back({prefix + (gated ? "gate, up" : "up"), hidden, gated ? 2 * inner : inner, count, trained,
                      false, share});
    shapes.push_back({prefix + "down", inner, hidden, count, trained, false, share});
  };
  add_mlp("", spec.gated_mlp, spec.intermediate_size, layers - mixtures, 1.0);
  if (spec.mixture && mixtures > 0) {
    const model::MixtureSpec& mixture = *spec.mixture;
    shapes.push_back({"router", hidden, mixture.num_experts, mixtures, trained});
    add_mlp("experts' ", true, mixture.expert_size, mixtures * mixture.num_experts,
            static_cast<double>(mixture.num_experts_per_tok) / static_cast<double>(mixture.num_experts));
    add_mlp("shared expert's ", true, mixture.shared_expert_size, mixtures, 1.0);
    if (mixture.shared_expert_size > 0)
      shapes.push_back({"shared expert's gate", hidden, 1, mixtures, trained});
  }
  if (spec.embedding_size != hidden) {
    shapes.push_back({"embedding projection", spec.embedding_size, hidden, 1, trained});
    shapes.push_back({"head projection", hidden, spec.embedding_size, 1, trained});
  }
  shapes.push_back({"head", spec.embedding_size, spec.vocab_size, 1, !work.head_is_frozen, /*is_head=*/true});
  return shapes;
}

std::vector<GemmTime> time_products(const std::vector<LinearShape>& shapes, int64_t tokens,
                                    int64_t head_tokens, ops::ComputeDtype compute, c10::Device device) {
  std::vector<GemmTime> times;
  for (const LinearShape& shape : shapes) {
    const auto part = static_cast<int64_t>(shape.share * static_cast<double>(tokens));
    times.push_back(
        time_product(shape, shape.is_head ? head_tokens : std::max<int64_t>(1, part), compute, device));
  }
  return times;
}

}  // namespace sft::train
