#include "ops/cpu/cpu.h"
#include "ops/generic/generic.h"
#include "sft/ops/ops.h"

namespace sft::ops {
namespace {

bool cpu_serves(const at::Tensor& x, const NormWeights& w) {
  return cpu::fits(x) && cpu::fits_or_absent(w.weight) && cpu::fits_or_absent(w.bias) &&
         w.weight.defined() >= w.bias.defined();
}

}  // namespace

at::Tensor norm_forward(NormKind kind, const at::Tensor& x, const NormWeights& w, double eps,
                        NormStats* stats) {
  if (cpu_serves(x, w)) return cpu::norm_forward(kind, x, w, eps, stats);
  return generic::norm_forward(kind, x, w, eps, stats);
}

at::Tensor add_norm_forward(NormKind kind, at::Tensor& x, const at::Tensor& residual, const NormWeights& w,
                            double eps, NormStats* stats) {
  if (cpu_serves(x, w) && cpu::fits(residual)) {
    return cpu::add_norm_forward(kind, x, residual, w, eps, stats);
  }
  return generic::norm_forward(kind, x.add_(residual), w, eps, stats);
}

at::Tensor norm_backward(NormKind kind, const at::Tensor& grad_y, const at::Tensor& x, const NormWeights& w,
                         const NormStats& stats, const NormWeights& grads, const at::Tensor& residual_grad) {
  if (cpu_serves(x, w) && cpu::fits(grad_y) && cpu_serves(x, grads) && cpu::fits_or_absent(residual_grad)) {
    return cpu::norm_backward(kind, grad_y, x, w, stats, grads, residual_grad);
  }
  at::Tensor grad_x = generic::norm_backward(kind, grad_y, x, w, stats, grads);
  return residual_grad.defined() ? grad_x.add_(residual_grad) : grad_x;
}

}  // namespace sft::ops
