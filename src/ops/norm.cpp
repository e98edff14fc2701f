#include "ops/generic/generic.h"
#include "sft/ops/ops.h"

namespace sft::ops {

at::Tensor norm_forward(NormKind kind, const at::Tensor& x, const NormWeights& w, double eps,
                        NormStats* stats) {
  return generic::norm_forward(kind, x, w, eps, stats);
}

at::Tensor norm_backward(NormKind kind, const at::Tensor& grad_y, const at::Tensor& x, const NormWeights& w,
                         const NormStats& stats, double, const NormWeights& grads) {
  return generic::norm_backward(kind, grad_y, x, w, stats, grads);
}

}  // namespace sft::ops
