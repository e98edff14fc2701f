// Logits, cross-entropy and their backward, `chunk` targets at a time in one reused buffer.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "ops/cpu/cpu.h"
#include "ops/generic/generic.h"
#include "ops/matmul.h"
#include "sft/ops/ops.h"

namespace sft::ops {
namespace {

struct Gradients {
  double loss_scale;
  const LinearGrads& weights;
};

void scale_and_cap(const at::Tensor& logits, const HeadOptions& options) {
  if (options.logit_scale != 1.0) logits.mul_(options.logit_scale);
  if (options.softcap) logits.div_(*options.softcap).tanh_().mul_(*options.softcap);
}

// Whether the gradient can be made in bf16 at once: where it serves products alone.
bool rounds_gradient(const at::Tensor& logits, const Gradients& gradients, const HeadOptions& options,
                     ComputeDtype compute) {
  return compute == ComputeDtype::kBf16 && cpu::fits(logits) && cpu::has_bf16() &&
         !gradients.weights.bias.defined() && !options.softcap && options.logit_scale == 1.0;
}

// logits <- grad_scale * d(loss)/d(logits) when grad_scale is given, or that into grad_bf16 where it is
// defined; returns what each row adds to the sums.
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets, const HeadOptions& options,
                         const double* grad_scale, const at::Tensor& grad_bf16) {
  scale_and_cap(logits, options);
  at::Tensor cap_derivative;
  if (options.softcap && grad_scale != nullptr) cap_derivative = 1.0 - (logits / *options.softcap).square();
  const at::Tensor per_row =
      cpu::fits(logits)
          ? cpu::cross_entropy_inplace(logits, targets.contiguous(), options.loss, grad_scale, grad_bf16)
          : generic::cross_entropy_inplace(logits, targets, options.loss, grad_scale);
  if (grad_scale != nullptr) {
    if (cap_derivative.defined()) logits.mul_(cap_derivative);
    if (options.logit_scale != 1.0) logits.mul_(options.logit_scale);
  }
  return per_row;
}

// gradients null: loss only.
HeadResult run_head(const at::Tensor& hidden, const LinearWeights& w, const at::Tensor& target_ids,
                    const HeadOptions& options, ComputeDtype compute, const Gradients* gradients) {
  const int64_t count = hidden.size(0);
  const at::Tensor x = operand(hidden, compute);
  const at::Tensor weight = operand_like(x, w.weight, compute);  // rounded once, not per chunk
  const at::Tensor in_by_out = w.transposed ? weight : weight.t();
  const auto dtype = compute == ComputeDtype::kBf16 ? at::kFloat : hidden.scalar_type();
  const at::TensorOptions result = hidden.options().dtype(dtype);

  HeadResult head;
  const at::Tensor sums =
      at::zeros({options.loss.token_metrics ? 3 : 1}, hidden.options().dtype(at::kDouble));
  head.loss_sum = sums.select(0, 0);
  if (options.loss.token_metrics) head.token_sums = sums.narrow(0, 1, 2);
  if (gradients != nullptr) head.grad_hidden = at::empty(hidden.sizes(), result);
  const at::Tensor buffer = at::empty({std::min(options.chunk, count), in_by_out.size(1)}, result);
  at::Tensor grad_buffer;
  if (gradients != nullptr && rounds_gradient(buffer, *gradients, options, compute))
    grad_buffer = at::empty(buffer.sizes(), buffer.options().dtype(at::kBFloat16));
  for (int64_t begin = 0; begin < count; begin += options.chunk) {
    const int64_t rows = std::min(options.chunk, count - begin);
    const at::Tensor logits = buffer.narrow(0, 0, rows), x_rows = x.narrow(0, begin, rows);
    matmul(x_rows, in_by_out, w.bias, logits, /*accumulate=*/false);
    const double* grad_scale = gradients != nullptr ? &gradients->loss_scale : nullptr;
    const at::Tensor grad_bf16 = grad_buffer.defined() ? grad_buffer.narrow(0, 0, rows) : at::Tensor();
    const at::Tensor per_row =
        cross_entropy(logits, target_ids.narrow(0, begin, rows), options, grad_scale, grad_bf16);
    sums.add_(per_row.t().contiguous().sum(1));  // each column in the same order, however many there are
    if (gradients == nullptr) continue;

    const at::Tensor grad_logits = grad_bf16.defined() ? grad_bf16 : operand(logits, compute);
    const LinearGrads& grads = gradients->weights;
    if (grads.weight.defined()) {
      matmul(x_rows.t(), grad_logits, {}, w.transposed ? grads.weight : grads.weight.t(),
             /*accumulate=*/true);
    }
    if (grads.bias.defined()) grads.bias.add_(logits.sum(0));
    matmul(grad_logits, in_by_out.t(), {}, head.grad_hidden.narrow(0, begin, rows), /*accumulate=*/false);
  }
  return head;
}

}  // namespace

HeadResult head_forward_backward(const at::Tensor& hidden, const LinearWeights& w,
                                 const at::Tensor& target_ids, double loss_scale, const LinearGrads& grads,
                                 const HeadOptions& options, ComputeDtype compute) {
  const Gradients gradients{loss_scale, grads};
  return run_head(hidden, w, target_ids, options, compute, &gradients);
}

HeadResult head_forward(const at::Tensor& hidden, const LinearWeights& w, const at::Tensor& target_ids,
                        const HeadOptions& options, ComputeDtype compute) {
  return run_head(hidden, w, target_ids, options, compute, nullptr);
}

at::Tensor head_logits(const at::Tensor& hidden, const LinearWeights& w, const HeadOptions& options,
                       ComputeDtype compute) {
  at::Tensor logits = linear_forward(hidden, w, compute);
  scale_and_cap(logits, options);
  return logits;
}

}  // namespace sft::ops
