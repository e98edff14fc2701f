#include "ops/cpu/cpu.h"
#include "ops/generic/generic.h"
#include "sft/ops/ops.h"

namespace sft::ops {
namespace {

bool swiglu_serves(const at::Tensor& gate_up) {
  return cpu::fits(gate_up) ||
         (gate_up.is_cpu() && gate_up.scalar_type() == at::kBFloat16 && gate_up.is_contiguous());
}

}  // namespace

at::Tensor activation_forward(Activation kind, const at::Tensor& x) {
  return generic::activation_forward(kind, x);
}

at::Tensor activation_backward(Activation kind, const at::Tensor& grad_y, const at::Tensor& x) {
  return generic::activation_backward(kind, grad_y, x);
}

bool gated_activation_takes_rounded(Activation kind, const at::Tensor& x, ComputeDtype compute) {
  return kind == Activation::kSilu && x.is_cpu() && compute == ComputeDtype::kBf16 && cpu::has_bf16();
}

at::Tensor gated_activation_forward(Activation kind, const at::Tensor& gate_up) {
  if (kind == Activation::kSilu && swiglu_serves(gate_up)) return cpu::swiglu_forward(gate_up);
  return generic::gated_activation_forward(kind, gate_up);
}

at::Tensor gated_activation_backward(Activation kind, const at::Tensor& grad_y, const at::Tensor& gate_up) {
  if (kind == Activation::kSilu && swiglu_serves(gate_up) && cpu::fits(grad_y)) {
    return cpu::swiglu_backward(grad_y, gate_up);
  }
  return generic::gated_activation_backward(kind, grad_y, gate_up);
}

}  // namespace sft::ops
