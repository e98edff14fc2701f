// Several linears of one input, multiplied as one where their tensors lie next to each other.
#pragma once

#include <vector>

#include "model/layout.h"

namespace sft::model {

class FusedLinear {
 public:
  // Roles in the order of their outputs. Absent gradients are not computed.
  FusedLinear(const BlockView& block, std::initializer_list<Role> roles);

  // [T, in] -> [T, sum of outputs]
  at::Tensor forward(const at::Tensor& x, ops::ComputeDtype compute) const;
  at::Tensor backward(const at::Tensor& grad_y, const at::Tensor& x, ops::ComputeDtype compute) const;

 private:
  struct Part {
    ops::LinearWeights weights;
    ops::LinearGrads grads;
    int64_t outputs() const { return weights.weight.size(weights.transposed ? 1 : 0); }
  };
  std::vector<Part> parts_;  // one when fused
};

}  // namespace sft::model
