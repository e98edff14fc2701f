#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>

#include "ops/generic/generic.h"

namespace sft::ops::generic {

at::Tensor cross_entropy_inplace(const at::Tensor& logits, const at::Tensor& target_ids,
                                 const LossOptions& loss, const double* grad_scale) {
  const bool dft = loss.kind == LossKind::kDft;
  const double smoothing = loss.label_smoothing, words = static_cast<double>(logits.size(1));
  const at::Tensor target = target_ids.unsqueeze(1);
  at::Tensor right, mean, weighted;
  if (loss.token_metrics) right = logits.argmax(1, /*keepdim=*/true).eq(target);
  logits.sub_(logits.amax(1, /*keepdim=*/true));
  const at::Tensor at_target = logits.gather(1, target).to(at::kDouble);
  if (smoothing > 0) mean = logits.mean(1, /*keepdim=*/true).to(at::kDouble);
  if (loss.token_metrics) weighted = (logits * logits.exp()).sum(1, /*keepdim=*/true).to(at::kDouble);
  logits.exp_();
  const at::Tensor total = logits.sum(1, /*keepdim=*/true).to(at::kDouble), log_total = total.log();

  const at::Tensor nll = log_total - at_target;
  const at::Tensor weight = dft ? (-nll).exp() : at::ones({1, 1}, nll.options());
  at::Tensor losses = nll * weight;
  if (smoothing > 0) losses = (1.0 - smoothing) * losses + smoothing * (log_total - mean);
  if (grad_scale != nullptr) {
    const at::Tensor scale = weight * *grad_scale;
    logits.mul_((scale / total).to(logits.options()));
    logits.scatter_add_(1, target, (-(1.0 - smoothing) * scale).expand(target.sizes()).to(logits.options()));
    if (smoothing > 0) logits.sub_(*grad_scale * smoothing / words);
  }
  if (!loss.token_metrics) return losses;
  return at::cat({losses, right.to(at::kDouble), log_total - weighted / total}, 1);
}

}  // namespace sft::ops::generic
