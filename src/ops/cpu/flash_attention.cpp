#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/empty.h>

#include "ops/cpu/cpu.h"
#include "ops/matmul.h"

namespace sft::ops::cpu {
namespace {

// One row as a batch over key/value heads. Query heads of a group share their keys through a zero stride:
// [L, H, D] -> [K, G, L, D] and [L, K, D] -> [K, G (stride 0), L, D].
at::Tensor row_of_queries(const at::Tensor& t, int64_t begin, int64_t length, int64_t kv_heads) {
  return t.narrow(0, begin, length).unflatten(1, {kv_heads, t.size(1) / kv_heads}).permute({1, 2, 0, 3});
}
at::Tensor row_of_keys(const at::Tensor& t, int64_t begin, int64_t length, int64_t groups) {
  return t.narrow(0, begin, length).permute({1, 0, 2}).unsqueeze(1).expand({-1, groups, -1, -1});
}

}  // namespace

at::Tensor flash_attention_forward(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in,
                                   std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                   ComputeDtype compute, AttentionSaved* saved) {
  const at::Tensor q = operand(q_in, compute), k = operand(k_in, compute), v = operand(v_in, compute);
  const int64_t kv_heads = k.size(1), groups = q.size(1) / kv_heads;
  at::Tensor out = at::empty(q.sizes(), q_in.options());
  for (std::size_t r = 0; r + 1 < cu_seqlens.size(); ++r) {
    const int64_t begin = cu_seqlens[r], length = cu_seqlens[r + 1] - begin;
    auto [row_out, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
        row_of_queries(q, begin, length, kv_heads), row_of_keys(k, begin, length, groups),
        row_of_keys(v, begin, length, groups), /*dropout_p=*/0.0, /*is_causal=*/true, /*attn_mask=*/{},
        options.scale);
    row_of_queries(out, begin, length, kv_heads).copy_(row_out);
    if (saved != nullptr) saved->tensors.push_back(logsumexp);
  }
  return out;
}

AttentionGrads flash_attention_backward(const at::Tensor& grad_out_in, const at::Tensor& q_in,
                                        const at::Tensor& k_in, const at::Tensor& v_in,
                                        const at::Tensor& out_in, std::span<const int64_t> cu_seqlens,
                                        const AttentionOptions& options, ComputeDtype compute,
                                        const AttentionSaved& saved) {
  const at::Tensor q = operand(q_in, compute), k = operand(k_in, compute), v = operand(v_in, compute);
  const at::Tensor grad_out = operand(grad_out_in, compute), out = operand(out_in, compute);
  const int64_t kv_heads = k.size(1), groups = q.size(1) / kv_heads;
  const at::TensorOptions result = grad_out_in.options();
  AttentionGrads grads{at::empty(q.sizes(), result), at::empty(k.sizes(), result),
                       at::empty(v.sizes(), result)};
  for (std::size_t r = 0; r + 1 < cu_seqlens.size(); ++r) {
    const int64_t begin = cu_seqlens[r], length = cu_seqlens[r + 1] - begin;
    const auto [grad_q, grad_k, grad_v] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        row_of_queries(grad_out, begin, length, kv_heads), row_of_queries(q, begin, length, kv_heads),
        row_of_keys(k, begin, length, groups), row_of_keys(v, begin, length, groups),
        row_of_queries(out, begin, length, kv_heads), saved.tensors[r], /*dropout_p=*/0.0, /*is_causal=*/true,
        /*attn_mask=*/{}, options.scale);
    row_of_queries(grads.q, begin, length, kv_heads).copy_(grad_q);
    // [K, G, L, D] -> [L, K, D]
    grads.k.narrow(0, begin, length)
        .copy_(grad_k.sum(1, /*keepdim=*/false, result.dtype().toScalarType()).transpose(0, 1));
    grads.v.narrow(0, begin, length)
        .copy_(grad_v.sum(1, /*keepdim=*/false, result.dtype().toScalarType()).transpose(0, 1));
  }
  return grads;
}

}  // namespace sft::ops::cpu
