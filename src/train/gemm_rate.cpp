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
  const int64_t inner = spec.intermediate_size, up = spec.gated_mlp ? 2 * inner : inner;
  const bool trained = work.frozen_block_linear_parameters == 0;
  std::vector<LinearShape> shapes{{"queries, keys, values", hidden, heads + 2 * kv_heads, layers, trained},
                                  {"attention output", heads, hidden, layers, trained},
                                  {spec.gated_mlp ? "gate, up" : "up", hidden, up, layers, trained},
                                  {"down", inner, hidden, layers, trained}};
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
  for (const LinearShape& shape : shapes)
    times.push_back(time_product(shape, shape.is_head ? head_tokens : tokens, compute, device));
  return times;
}

}  // namespace sft::train
