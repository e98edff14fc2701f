#include <ATen/ops/empty.h>

#include "ops/cpu/cpu.h"
#include "ops/matmul.h"
#include "sft/ops/ops.h"

namespace sft::ops {
namespace {

// The weight as [in, out].
at::Tensor in_by_out(const at::Tensor& weight, bool transposed) {
  return transposed ? weight : weight.t();
}

at::ScalarType result_dtype(const at::Tensor& x, ComputeDtype compute) {
  return compute == ComputeDtype::kBf16 ? at::kFloat : x.scalar_type();
}

void add_bias_grad(const at::Tensor& grad_y, const at::Tensor& grad_bias) {
  const bool served = grad_y.scalar_type() == at::kFloat || grad_y.scalar_type() == at::kBFloat16;
  if (grad_y.is_cpu() && served && grad_y.stride(1) == 1 && cpu::fits(grad_bias)) {
    cpu::add_column_sums(grad_y, grad_bias);
  } else {
    grad_bias.add_(grad_y.sum(at::IntArrayRef{0}, /*keepdim=*/false, grad_bias.scalar_type()));
  }
}

}  // namespace

at::Tensor linear_forward(const at::Tensor& x, const LinearWeights& w, ComputeDtype compute,
                          bool round_result) {
  const at::Tensor input = operand(x, compute);
  const at::Tensor weight = in_by_out(operand_like(input, w.weight, compute), w.transposed);
  const bool in_bf16 = round_result && compute == ComputeDtype::kBf16 && input.scalar_type() == at::kBFloat16;
  const at::ScalarType dtype = in_bf16 ? at::kBFloat16 : result_dtype(x, compute);
  at::Tensor y = at::empty({x.size(0), weight.size(1)}, x.options().dtype(dtype));
  matmul(input, weight, w.bias, y, /*accumulate=*/false);
  return round_result ? operand(y, compute) : y;
}

at::Tensor linear_backward(const at::Tensor& grad_y, const at::Tensor& x, const LinearWeights& w,
                           const LinearGrads& grads, ComputeDtype compute, bool need_grad_x) {
  const at::Tensor grad = operand(grad_y, compute);
  if (grads.weight.defined()) {
    matmul(operand(x, compute).t(), grad, {}, in_by_out(grads.weight, w.transposed), /*accumulate=*/true);
  }
  if (grads.bias.defined()) add_bias_grad(grad_y, grads.bias);
  if (!need_grad_x) return {};
  at::Tensor grad_x =
      at::empty({x.size(0), x.size(1)}, grad_y.options().dtype(result_dtype(grad_y, compute)));
  matmul(grad, in_by_out(operand_like(grad, w.weight, compute), w.transposed).t(), {}, grad_x,
         /*accumulate=*/false);
  return grad_x;
}

}  // namespace sft::ops
