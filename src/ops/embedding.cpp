#include "ops/generic/generic.h"
#include "sft/ops/ops.h"

namespace sft::ops {

at::Tensor embedding_forward(const at::Tensor& ids, const at::Tensor& weight) {
  return generic::embedding_forward(ids, weight);
}

void embedding_backward(const at::Tensor& grad_y, const at::Tensor& ids, const at::Tensor& grad_weight,
                        std::optional<int64_t> padding_idx) {
  if (!grad_weight.defined()) return;
  generic::embedding_backward(grad_y, ids, grad_weight, padding_idx);
}

}  // namespace sft::ops
