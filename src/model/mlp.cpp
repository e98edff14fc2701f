#include "model/mlp.h"

#include <ATen/TensorOperators.h>

namespace sft::model {

FusedLinear Mlp::up_linear() const {
  if (is_fused()) return FusedLinear(block_, {*roles_.gate_up});
  return is_gated() ? FusedLinear(block_, {roles_.gate, roles_.up}) : FusedLinear(block_, {roles_.up});
}

at::Tensor Mlp::forward(const at::Tensor& x, const at::Tensor& share, at::Tensor& up) const {
  // A share multiplies what the activation gives: nothing is rounded before.
  const bool rounded = !share.defined() && ops::activation_takes_rounded(x, run_.mode.compute);
  up = up_linear().forward(x, run_, rounded);
  at::Tensor inner = activated(up);
  if (share.defined()) inner.mul_(share);
  return FusedLinear(block_, {roles_.down}).forward(inner, run_);
}

// The share goes with the activation, before the last product: its gradient then costs no second product.
Mlp::Grads Mlp::backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& share,
                         const at::Tensor& up) const {
  const at::Tensor inner = activated(up);
  at::Tensor grad_inner =
      FusedLinear(block_, {roles_.down}).backward(grad, share.defined() ? inner * share : inner, run_);
  Grads grads;
  if (share.defined()) {
    grads.share = (grad_inner * inner).sum(1, /*keepdim=*/true);
    grad_inner = grad_inner * share;
  }
  grads.x = up_linear().backward(activated_backward(grad_inner, up), x, run_);
  return grads;
}

at::Tensor Mlp::activated(const at::Tensor& up) const {
  return is_gated() ? ops::gated_activation_forward(activation_, up)
                    : ops::activation_forward(activation_, up);
}

at::Tensor Mlp::activated_backward(const at::Tensor& grad, const at::Tensor& up) const {
  return is_gated() ? ops::gated_activation_backward(activation_, grad, up)
                    : ops::activation_backward(activation_, grad, up);
}

}  // namespace sft::model
