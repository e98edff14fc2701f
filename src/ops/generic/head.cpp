#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>

#include "ops/generic/generic.h"

namespace sft::ops::generic {

at::Tensor cross_entropy_inplace(const at::Tensor& logits, const at::Tensor& target_ids,
                                 const double* grad_scale) {
  const at::Tensor target = target_ids.unsqueeze(1);
  const at::Tensor top = logits.amax(1, /*keepdim=*/true);
  const at::Tensor at_target = logits.gather(1, target) - top;
  logits.sub_(top).exp_();
  const at::Tensor total = logits.sum(1, /*keepdim=*/true);
  const at::Tensor losses = (total.to(at::kDouble).log() - at_target.to(at::kDouble)).squeeze(1);
  if (grad_scale != nullptr) {
    logits.mul_(*grad_scale / total);
    logits.scatter_add_(1, target, at::ones(target.sizes(), logits.options()).mul_(-*grad_scale));
  }
  return losses;
}

}  // namespace sft::ops::generic
