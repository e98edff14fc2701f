#include <ATen/core/List.h>

#include "ops/generic/generic.h"

namespace sft::ops::generic {

at::Tensor embedding_forward(const at::Tensor& ids, const at::Tensor& weight) {
  return weight.index_select(0, ids);
}

void embedding_backward(const at::Tensor& grad_y, const at::Tensor& ids, const at::Tensor& grad_weight,
                        std::optional<int64_t> padding_idx) {
  at::Tensor grad = grad_y.to(grad_weight.scalar_type());
  // Rows are set to zero, not multiplied: a non-finite gradient must not leak into the padding row.
  if (padding_idx) grad = grad.masked_fill(ids.eq(*padding_idx).unsqueeze(1), 0);
  if (!grad_weight.is_cuda()) {
    grad_weight.index_add_(0, ids, grad);
    return;
  }
  // There index_add_ adds in whatever order threads come; this sorts.
  c10::List<std::optional<at::Tensor>> rows;
  rows.push_back(ids);
  grad_weight.index_put_(rows, grad, /*accumulate=*/true);
}

}  // namespace sft::ops::generic
