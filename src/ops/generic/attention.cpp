// Attention with explicit scores, for one row and one key/value head (with its G query heads) at a time.
// Probabilities are computed again in the backward rather than kept: they take L^2 per head.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>

#include <limits>

#include "ops/dropout.h"
#include "ops/generic/generic.h"

namespace sft::ops::generic {
namespace {

at::Tensor rounded(const at::Tensor& t, ComputeDtype compute) {
  return compute == ComputeDtype::kBf16 ? t.to(at::kBFloat16).to(at::kFloat) : t;
}

// One row seen from one key/value head: q [G, L, D], k and v [1, L, D].
struct HeadGroup {
  int64_t row, begin, length, kv_head, first_head, heads;

  at::Tensor queries(const at::Tensor& t) const {
    return t.narrow(0, begin, length).narrow(1, first_head, heads).transpose(0, 1);
  }
  at::Tensor keys(const at::Tensor& t) const {
    return t.narrow(0, begin, length).narrow(1, kv_head, 1).transpose(0, 1);
  }
};

template <typename Function>
void for_each_group(const at::Tensor& q, const at::Tensor& k, std::span<const int64_t> cu_seqlens,
                    Function&& function) {
  const int64_t groups = q.size(1) / k.size(1);
  for (std::size_t r = 0; r + 1 < cu_seqlens.size(); ++r) {
    const int64_t begin = cu_seqlens[r], length = cu_seqlens[r + 1] - begin;
    for (int64_t head = 0; head < k.size(1); ++head) {
      function(HeadGroup{static_cast<int64_t>(r), begin, length, head, head * groups, groups});
    }
  }
}

// true where a query must not look: the future, and what lies behind the window.
at::Tensor hidden_positions(int64_t length, const AttentionOptions& options, const at::Tensor& like) {
  const at::Tensor position = at::arange(length, like.options().dtype(at::kLong));
  const at::Tensor distance = position.unsqueeze(1) - position;  // query - key
  at::Tensor hidden = distance.lt(0);
  if (options.sliding_window) hidden = hidden.logical_or(distance.ge(*options.sliding_window));
  return hidden;
}

struct Probabilities {
  at::Tensor values;          // [G, L, L]
  at::Tensor cap_derivative;  // d(capped score) / d(score); undefined without a softcap
};

// slope * key position for the group's heads: [G, 1, L].
at::Tensor alibi_bias(const HeadGroup& group, const AttentionOptions& options, const at::Tensor& like) {
  const auto slopes = options.alibi_slopes.subspan(static_cast<std::size_t>(group.first_head),
                                                   static_cast<std::size_t>(group.heads));
  return at::tensor(at::ArrayRef<double>(slopes.data(), slopes.size()), like.options().device(at::kCPU))
             .to(like.device())
             .view({group.heads, 1, 1}) *
         at::arange(group.length, like.options());
}

Probabilities probabilities(const HeadGroup& group, const at::Tensor& q, const at::Tensor& k,
                            const AttentionOptions& options) {
  at::Tensor scores = at::matmul(q, k.transpose(1, 2)).mul_(options.scale);
  Probabilities result;
  if (options.softcap) {
    const at::Tensor tanh = (scores / *options.softcap).tanh();
    result.cap_derivative = 1.0 - tanh.square();
    scores = tanh * *options.softcap;
  }
  if (!options.alibi_slopes.empty()) scores.add_(alibi_bias(group, options, q));
  const auto lowest = -std::numeric_limits<double>::infinity();
  scores.masked_fill_(hidden_positions(q.size(1), options, q), lowest);
  result.values = scores.softmax(2);
  return result;
}

// [G, L, L] keep-mask: elements of a row are counted (head, query, key).
at::Tensor mask_of(const DropoutSite& site, const HeadGroup& group, const at::Tensor& like) {
  const int64_t square = group.length * group.length;
  return dropout_mask_range(site, group.row, group.first_head * square, group.heads * square)
      .view({group.heads, group.length, group.length})
      .to(like.options());
}

}  // namespace

at::Tensor attention_forward(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in,
                             std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                             const DropoutSite* dropout, ComputeDtype compute) {
  const at::Tensor q = rounded(q_in, compute), k = rounded(k_in, compute), v = rounded(v_in, compute);
  at::Tensor out = at::empty_like(q, at::MemoryFormat::Contiguous);
  for_each_group(q, k, cu_seqlens, [&](const HeadGroup& group) {
    at::Tensor p = probabilities(group, group.queries(q), group.keys(k), options).values;
    if (is_active(dropout)) p.mul_(mask_of(*dropout, group, p));
    group.queries(out).copy_(at::matmul(rounded(p, compute), group.keys(v)));
  });
  return rounded(out, compute);
}

AttentionGrads attention_backward(const at::Tensor& grad_out_in, const at::Tensor& q_in,
                                  const at::Tensor& k_in, const at::Tensor& v_in,
                                  std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                  const DropoutSite* dropout, ComputeDtype compute) {
  const at::Tensor q = rounded(q_in, compute), k = rounded(k_in, compute), v = rounded(v_in, compute);
  const at::Tensor grad_out = rounded(grad_out_in, compute);
  constexpr auto kDense = at::MemoryFormat::Contiguous;
  AttentionGrads grads{at::empty_like(q, kDense), at::empty_like(k, kDense), at::empty_like(v, kDense)};
  for_each_group(q, k, cu_seqlens, [&](const HeadGroup& group) {
    const at::Tensor go = group.queries(grad_out);
    const Probabilities p = probabilities(group, group.queries(q), group.keys(k), options);
    at::Tensor dropped = p.values;
    at::Tensor grad_p = at::matmul(go, group.keys(v).transpose(1, 2));
    if (is_active(dropout)) {
      const at::Tensor mask = mask_of(*dropout, group, grad_p);
      dropped = p.values * mask;
      grad_p.mul_(mask);
    }
    group.keys(grads.v).copy_(
        at::matmul(rounded(dropped, compute).transpose(1, 2), go).sum(0, /*keepdim=*/true));

    at::Tensor grad_scores = p.values * (grad_p - (grad_p * p.values).sum(2, /*keepdim=*/true));
    if (p.cap_derivative.defined()) grad_scores.mul_(p.cap_derivative);
    grad_scores = rounded(grad_scores.mul_(options.scale), compute);
    group.queries(grads.q).copy_(at::matmul(grad_scores, group.keys(k)));
    group.keys(grads.k).copy_(
        at::matmul(grad_scores.transpose(1, 2), group.queries(q)).sum(0, /*keepdim=*/true));
  });
  return grads;
}

}  // namespace sft::ops::generic
