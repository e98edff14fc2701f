// How fast this machine multiplies matrices of a model's shapes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sft/metrics/throughput.h"
#include "sft/model/spec.h"
#include "sft/ops/ops.h"

namespace sft::train {

// A linear as it is multiplied: [tokens, in] by [out, in], `count` times in a forward pass.
struct LinearShape {
  std::string name;
  int64_t in = 0, out = 0, count = 1;
  bool weight_gradient = true;  // false: frozen
  bool is_head = false;
  double share =
      1.0;  // of a micro-batch's tokens that one of them sees: of routed experts, each has its part
};

// The linears of all layers, what projects narrow embeddings, and the head. Count x share x in x out sums to
// the weights that work on a token. With `work`'s adapters, whose own products are left out, most are frozen.
std::vector<LinearShape> linear_shapes(const model::DecoderSpec& spec, const metrics::ModelWork& work);

struct GemmTime {
  LinearShape shape;
  int64_t tokens = 0;
  double flops = 0, seconds = 0;  // of one forward and backward
};

// Local. The fastest of several passes through ops::linear_forward and linear_backward, for each shape:
// `tokens` rows, the head's `head_tokens`.
std::vector<GemmTime> time_products(const std::vector<LinearShape>& shapes, int64_t tokens,
                                    int64_t head_tokens, ops::ComputeDtype compute, c10::Device device);

}  // namespace sft::train
