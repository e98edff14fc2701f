#include "ops/matmul.h"

#include "ops/cpu/cpu.h"
#include "ops/generic/generic.h"

namespace sft::ops {

at::Tensor operand(const at::Tensor& t, ComputeDtype compute) {
  if (compute == ComputeDtype::kFp32) return t;
  const at::Tensor rounded = t.to(at::kBFloat16);
  return t.is_cpu() && !cpu::has_bf16() ? rounded.to(at::kFloat) : rounded;
}

at::Tensor operand_like(const at::Tensor& other, const at::Tensor& t, ComputeDtype compute) {
  return operand(t, compute).to(other.scalar_type());
}

void matmul(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias, const at::Tensor& c,
            bool accumulate) {
  if (c.numel() == 0) return;
  if (a.size(1) == 0) {
    if (!accumulate) bias.defined() ? c.copy_(bias.expand_as(c)) : c.zero_();
    return;
  }
  const bool known = c.scalar_type() == at::kFloat || (c.scalar_type() == at::kBFloat16 && cpu::has_bf16());
  if (c.is_cpu() && known && cpu::onednn_matmul(a, b, bias, c, accumulate)) return;
  generic::matmul(a, b, bias, c, accumulate);
}

}  // namespace sft::ops
