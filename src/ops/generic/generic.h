// Implementations in plain at:: operations: any device, any floating dtype. In float64 they are the oracle of
// the tests. Contracts as in sft/ops/ops.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <span>

#include "sft/ops/ops.h"

namespace sft::ops::generic {

void matmul(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias, const at::Tensor& c,
            bool accumulate);

at::Tensor norm_forward(NormKind kind, const at::Tensor& x, const NormWeights& w, double eps,
                        NormStats* stats);
at::Tensor norm_backward(NormKind kind, const at::Tensor& grad_y, const at::Tensor& x, const NormWeights& w,
                         const NormStats& stats, const NormWeights& grads);

at::Tensor activation_forward(Activation kind, const at::Tensor& x);
at::Tensor activation_backward(Activation kind, const at::Tensor& grad_y, const at::Tensor& x);
at::Tensor gated_activation_forward(Activation kind, const at::Tensor& gate_up);
at::Tensor gated_activation_backward(Activation kind, const at::Tensor& grad_y, const at::Tensor& gate_up);

void rotary_inplace(at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse,
                    RotaryLayout layout = RotaryLayout::kHalves);

// Scores of one row and one key/value head at a time.
at::Tensor attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                             const DropoutSite* dropout, ComputeDtype compute);
AttentionGrads attention_backward(const at::Tensor& grad_out, const at::Tensor& q, const at::Tensor& k,
                                  const at::Tensor& v, std::span<const int64_t> cu_seqlens,
                                  const AttentionOptions& options, const DropoutSite* dropout,
                                  ComputeDtype compute);

at::Tensor embedding_forward(const at::Tensor& ids, const at::Tensor& weight);
void embedding_backward(const at::Tensor& grad_y, const at::Tensor& ids, const at::Tensor& grad_weight,
                        std::optional<int64_t> padding_idx);

// logits [n, V] -> for each row its loss and, with token_metrics, 1 or 0 for a right guess and the entropy:
// fp64 [n, 1] or [n, 3]. When grad_scale is given, logits become grad_scale * d(loss)/d(logits).
at::Tensor cross_entropy_inplace(const at::Tensor& logits, const at::Tensor& target_ids,
                                 const LossOptions& loss, const double* grad_scale);

}  // namespace sft::ops::generic
