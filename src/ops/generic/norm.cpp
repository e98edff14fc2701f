#include <ATen/TensorOperators.h>

#include "ops/generic/generic.h"

namespace sft::ops::generic {
namespace {

// (x - mean) * rstd, without the mean for RMSNorm.
at::Tensor normalised(NormKind kind, const at::Tensor& x, const NormStats& stats) {
  const at::Tensor centred = kind == NormKind::kLayerNorm ? x - stats.mean.unsqueeze(1) : x;
  return centred * stats.rstd.unsqueeze(1);
}

}  // namespace

at::Tensor norm_forward(NormKind kind, const at::Tensor& x, const NormWeights& w, double eps,
                        NormStats* stats) {
  NormStats own;
  if (kind == NormKind::kLayerNorm) {
    own.mean = x.mean(1);
    own.rstd = ((x - own.mean.unsqueeze(1)).square().mean(1) + eps).rsqrt();
  } else {
    own.rstd = (x.square().mean(1) + eps).rsqrt();
  }
  at::Tensor y = normalised(kind, x, own);
  if (w.weight.defined()) y.mul_(w.weight);
  if (w.bias.defined()) y.add_(w.bias);
  if (stats != nullptr) *stats = own;
  return y;
}

at::Tensor norm_backward(NormKind kind, const at::Tensor& grad_y, const at::Tensor& x, const NormWeights& w,
                         const NormStats& stats, const NormWeights& grads) {
  const at::Tensor x_hat = normalised(kind, x, stats);
  if (grads.weight.defined()) grads.weight.add_((grad_y * x_hat).sum(0));
  if (grads.bias.defined()) grads.bias.add_(grad_y.sum(0));

  const at::Tensor grad_hat = w.weight.defined() ? grad_y * w.weight : grad_y;
  at::Tensor grad = grad_hat - x_hat * (grad_hat * x_hat).mean(1, /*keepdim=*/true);
  if (kind == NormKind::kLayerNorm) grad.sub_(grad_hat.mean(1, /*keepdim=*/true));
  return grad.mul_(stats.rstd.unsqueeze(1));
}

}  // namespace sft::ops::generic
