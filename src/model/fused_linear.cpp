#include "model/fused_linear.h"

#include <ATen/ops/cat.h>

#include <algorithm>
#include <optional>

namespace sft::model {
namespace {

// One tensor over neighbours in memory that are stacked along their first dimension; nothing when there is a
// gap.
std::optional<at::Tensor> joined(const std::vector<at::Tensor>& tensors) {
  const at::Tensor& first = tensors.front();
  int64_t rows = 0;
  const auto* next = static_cast<const std::byte*>(first.const_data_ptr());
  for (const at::Tensor& t : tensors) {
    if (!t.is_contiguous() || t.const_data_ptr() != next || !t.is_alias_of(first)) return std::nullopt;
    next += t.nbytes();
    rows += t.size(0);
  }
  std::vector<int64_t> sizes = first.sizes().vec();
  sizes[0] = rows;
  return first.as_strided(sizes, first.strides());
}

// As joined; tensors that are all undefined join to an undefined one, and with defined ones to nothing (where
// one of them is trained and the others are frozen).
std::optional<at::Tensor> joined_or_absent(const std::vector<at::Tensor>& tensors) {
  const auto absent = std::ranges::count_if(tensors, [](const at::Tensor& t) { return !t.defined(); });
  if (absent == std::ssize(tensors)) return at::Tensor();
  return absent == 0 ? joined(tensors) : std::nullopt;
}

}  // namespace

FusedLinear::FusedLinear(const BlockView& block, std::initializer_list<Role> roles) {
  std::vector<at::Tensor> weights, biases, weight_grads, bias_grads;
  int64_t begin = 0;
  for (const Role role : roles) {
    parts_.push_back({block.linear(role), block.linear_grads(role)});
    const int64_t outputs = parts_.back().outputs();
    if (auto lora = block.lora(role)) adapters_.push_back({std::move(*lora), begin, outputs});
    begin += outputs;
    weights.push_back(parts_.back().weights.weight);
    biases.push_back(parts_.back().weights.bias);
    weight_grads.push_back(parts_.back().grads.weight);
    bias_grads.push_back(parts_.back().grads.bias);
  }
  if (parts_.size() == 1 || parts_.front().weights.transposed) return;
  const auto weight = joined(weights), bias = joined_or_absent(biases);
  const auto weight_grad = joined_or_absent(weight_grads), bias_grad = joined_or_absent(bias_grads);
  if (weight && bias && weight_grad && bias_grad) parts_ = {{{*weight, *bias}, {*weight_grad, *bias_grad}}};
}

at::Tensor FusedLinear::forward(const at::Tensor& x, const LinearRun& run, bool round_result) const {
  const ops::ComputeDtype compute = run.mode.compute;
  const at::Tensor y = base_forward(x, compute, round_result && adapters_.empty());
  for (const Adapter& adapter : adapters_)
    lora_forward(adapter.lora, x, y.narrow(1, adapter.begin, adapter.outputs), run);
  return round_result ? ops::operand(y, compute) : y;
}

at::Tensor FusedLinear::backward(const at::Tensor& grad_y, const at::Tensor& x, const LinearRun& run) const {
  const at::Tensor grad_x = base_backward(grad_y, x, run.mode.compute);
  for (const Adapter& adapter : adapters_)
    lora_backward(adapter.lora, grad_y.narrow(1, adapter.begin, adapter.outputs), x, grad_x, run);
  return grad_x;
}

at::Tensor FusedLinear::base_forward(const at::Tensor& x, ops::ComputeDtype compute,
                                     bool round_result) const {
  if (parts_.size() == 1) return ops::linear_forward(x, parts_.front().weights, compute, round_result);
  std::vector<at::Tensor> outputs;
  for (const Part& part : parts_)
    outputs.push_back(ops::linear_forward(x, part.weights, compute, round_result));
  return at::cat(outputs, 1);
}

at::Tensor FusedLinear::base_backward(const at::Tensor& grad_y, const at::Tensor& x,
                                      ops::ComputeDtype compute) const {
  at::Tensor grad_x;
  int64_t begin = 0;
  for (const Part& part : parts_) {
    const at::Tensor grad_part = grad_y.narrow(1, begin, part.outputs());
    const at::Tensor grad = ops::linear_backward(grad_part, x, part.weights, part.grads, compute);
    begin += part.outputs();
    if (grad_x.defined()) {
      grad_x.add_(grad);
    } else {
      grad_x = grad;
    }
  }
  return grad_x;
}

}  // namespace sft::model
