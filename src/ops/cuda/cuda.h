// Implementations for CUDA tensors, through LibTorch's own kernels (no CUDA header is needed to build them).
#pragma once

#include <ATen/core/Tensor.h>

#include <span>

#include "sft/ops/ops.h"

namespace sft::ops::cuda {

// Variable-length flash attention over all rows at once, operands in bf16. No dropout or softcap.
at::Tensor attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                             AttentionSaved* saved);
AttentionGrads attention_backward(const at::Tensor& grad_out, const at::Tensor& q, const at::Tensor& k,
                                  const at::Tensor& v, const at::Tensor& out,
                                  std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                  const AttentionSaved& saved);

}  // namespace sft::ops::cuda
