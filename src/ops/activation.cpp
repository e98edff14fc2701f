#include "ops/cpu/cpu.h"
#include "ops/generic/generic.h"
#include "sft/ops/ops.h"

namespace sft::ops {
namespace {

bool cpu_serves(const at::Tensor& x) {
  return cpu::fits(x) || (x.is_cpu() && x.scalar_type() == at::kBFloat16 && x.is_contiguous());
}

}  // namespace

at::Tensor activation_forward(Activation kind, const at::Tensor& x) {
  return cpu_serves(x) ? cpu::activation_forward(kind, x) : generic::activation_forward(kind, x);
}

at::Tensor activation_backward(Activation kind, const at::Tensor& grad_y, const at::Tensor& x) {
  if (cpu_serves(x) && cpu::fits(grad_y)) return cpu::activation_backward(kind, grad_y, x);
  return generic::activation_backward(kind, grad_y, x);
}

bool activation_takes_rounded(const at::Tensor& x, ComputeDtype compute) {
  return x.is_cpu() && compute == ComputeDtype::kBf16 && cpu::has_bf16();
}

at::Tensor gated_activation_forward(Activation kind, const at::Tensor& gate_up) {
  return cpu_serves(gate_up) ? cpu::gated_activation_forward(kind, gate_up)
                             : generic::gated_activation_forward(kind, gate_up);
}

at::Tensor gated_activation_backward(Activation kind, const at::Tensor& grad_y, const at::Tensor& gate_up) {
  if (cpu_serves(gate_up) && cpu::fits(grad_y)) {
    return cpu::gated_activation_backward(kind, grad_y, gate_up);
  }
  return generic::gated_activation_backward(kind, grad_y, gate_up);
}

}  // namespace sft::ops
