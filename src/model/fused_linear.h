// The linears of a block: one, or several of one input, multiplied as one where their tensors lie next to
// each other; each with its adapter, where it has one.
#pragma once

#include <vector>

#include "model/layout.h"
#include "model/lora.h"

namespace sft::model {

class FusedLinear {
 public:
  // Roles in the order of their outputs. Absent gradients are not computed.
  FusedLinear(const BlockView& block, std::initializer_list<Role> roles);

  // [T, in] -> [T, sum of outputs]; round_result: as ops::operand makes it.
  at::Tensor forward(const at::Tensor& x, const LinearRun& run, bool round_result = false) const;
  at::Tensor backward(const at::Tensor& grad_y, const at::Tensor& x, const LinearRun& run) const;

 private:
  at::Tensor base_forward(const at::Tensor& x, ops::ComputeDtype compute, bool round_result) const;
  at::Tensor base_backward(const at::Tensor& grad_y, const at::Tensor& x, ops::ComputeDtype compute) const;

  struct Part {
    ops::LinearWeights weights;
    ops::LinearGrads grads;
    int64_t outputs() const { return weights.weight.size(weights.transposed ? 1 : 0); }
  };
  struct Adapter {
    Lora lora;
    int64_t begin = 0, outputs = 0;  // the linear's columns of y
  };
  std::vector<Part> parts_;  // one when fused
  std::vector<Adapter> adapters_;
};

}  // namespace sft::model
