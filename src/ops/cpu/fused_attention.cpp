// Causal attention in fp32.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "ops/cpu/attention_tasks.h"
#include "ops/cpu/cpu.h"
#include "ops/cpu/small_gemm.h"

namespace sft::ops::cpu {
namespace {

// [T, heads, head_dim] with contiguous features.
struct HeadsView {
  float* data;
  int64_t token_stride, head_stride;
  explicit HeadsView(const at::Tensor& t)
      : data(const_cast<float*>(t.const_data_ptr<float>())),
        token_stride(t.stride(0)),
        head_stride(t.stride(1)) {}
  float* at(int64_t token, int64_t head) const { return data + token * token_stride + head * head_stride; }
};

// Scratch of one thread for rows of at most `longest` tokens.
struct Scratch {
  static int64_t size(int64_t longest, int64_t head_dim) {
    return padded_keys(longest) * (2 * head_dim + 2 * kQueriesPerBlock + 1);
  }

  Scratch(float* memory, int64_t length, int64_t head_dim) : stride(padded_keys(length)) {
    keys = memory;
    values = keys + head_dim * stride;
    scores = values + head_dim * stride;
    grads = scores + kQueriesPerBlock * stride;
    mask = grads + kQueriesPerBlock * stride;
  }
  int64_t stride;         // of the rows below
  float *keys, *values;   // transposed: [head_dim, stride]
  float *scores, *grads;  // [kQueriesPerBlock, stride]
  float* mask;            // [stride]
};

using Problem = AttentionProblem<HeadsView>;

void forward_task(const Problem& p, const AttentionTask& task, Scratch s, const HeadsView& out,
                  float* logsumexp, int64_t tokens) {
  transpose(p.k.at(task.begin, task.kv_head), p.k.token_stride, task.length, p.head_dim, s.stride, s.keys);
  for (int64_t head = task.kv_head * p.groups; head < (task.kv_head + 1) * p.groups; ++head) {
    for (int64_t first = 0; first < task.length; first += kQueriesPerBlock) {
      const AttentionBlock b(p.window, first, task.length);
      const int64_t token = task.begin + first;
      small_gemm({b.queries,
                  b.padded,
                  p.head_dim,
                  {p.q.at(token, head), p.q.token_stride, 1},
                  s.keys + b.first_key,
                  s.stride,
                  s.scores,
                  s.stride,
                  false});
      for (int64_t i = 0; i < b.queries; ++i) {
        float* const scores = s.scores + i * s.stride;
        logsumexp[head * tokens + token + i] = softmax_row(scores, p.rule(head), b.visible(i), b.padded);
        if (p.dropout != nullptr) {
          p.fill_mask(task, head, b, i, s.mask);
          multiply_row(scores, s.mask, b.visible(i));
        }
      }
      small_gemm({b.queries,
                  p.head_dim,
                  b.keys,
                  {s.scores, s.stride, 1},
                  p.v.at(task.begin + b.first_key, task.kv_head),
                  p.v.token_stride,
                  out.at(token, head),
                  out.token_stride,
                  false});
    }
  }
}

struct BackwardViews {
  HeadsView grad_out, out, grad_q, grad_k, grad_v;
};

void backward_task(const Problem& p, const AttentionTask& task, Scratch s, const BackwardViews& g,
                   const float* logsumexp, int64_t tokens) {
  const int64_t kv = task.kv_head, start = task.begin;
  transpose(p.k.at(start, kv), p.k.token_stride, task.length, p.head_dim, s.stride, s.keys);
  transpose(p.v.at(start, kv), p.v.token_stride, task.length, p.head_dim, s.stride, s.values);
  for (int64_t head = kv * p.groups; head < (kv + 1) * p.groups; ++head) {
    for (int64_t first = 0; first < task.length; first += kQueriesPerBlock) {
      const AttentionBlock b(p.window, first, task.length);
      const int64_t token = start + first, key = start + b.first_key;
      const StridedMatrix q{p.q.at(token, head), p.q.token_stride, 1};
      const StridedMatrix grad_out{g.grad_out.at(token, head), g.grad_out.token_stride, 1};
      small_gemm(
          {b.queries, b.padded, p.head_dim, q, s.keys + b.first_key, s.stride, s.scores, s.stride, false});
      small_gemm({b.queries, b.padded, p.head_dim, grad_out, s.values + b.first_key, s.stride, s.grads,
                  s.stride, false});
      for (int64_t i = 0; i < b.queries; ++i) {
        float *const scores = s.scores + i * s.stride, *const grads = s.grads + i * s.stride;
        const float delta = dot(g.grad_out.at(token + i, head), g.out.at(token + i, head), p.head_dim);
        if (p.dropout != nullptr) {
          p.fill_mask(task, head, b, i, s.mask);
          multiply_row(grads, s.mask, b.visible(i));
        }
        softmax_backward_row(scores, grads, p.rule(head), logsumexp[head * tokens + token + i], delta,
                             b.visible(i), b.padded);
        if (p.dropout != nullptr) multiply_row(scores, s.mask, b.visible(i));
      }
      small_gemm({b.queries,
                  p.head_dim,
                  b.keys,
                  {s.grads, s.stride, 1},
                  p.k.at(key, kv),
                  p.k.token_stride,
                  g.grad_q.at(token, head),
                  g.grad_q.token_stride,
                  false});
      small_gemm({b.keys,
                  p.head_dim,
                  b.queries,
                  {s.grads, 1, s.stride},
                  q.data,
                  q.row_stride,
                  g.grad_k.at(key, kv),
                  g.grad_k.token_stride,
                  true});
      small_gemm({b.keys,
                  p.head_dim,
                  b.queries,
                  {s.scores, 1, s.stride},
                  grad_out.data,
                  grad_out.row_stride,
                  g.grad_v.at(key, kv),
                  g.grad_v.token_stride,
                  true});
    }
  }
}

// bf16 operands, multiplied in fp32.
at::Tensor rounded(const at::Tensor& t, ComputeDtype compute) {
  return compute == ComputeDtype::kBf16 ? t.to(at::kBFloat16).to(at::kFloat) : t;
}

}  // namespace

bool fused_attention_serves(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  return q.size(2) % kGemmColumns == 0 && q.stride(2) == 1 && k.stride(2) == 1 && v.stride(2) == 1;
}

at::Tensor fused_attention_forward(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in,
                                   std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                   const DropoutSite* dropout, ComputeDtype compute, AttentionSaved* saved) {
  const at::Tensor q = rounded(q_in, compute), k = rounded(k_in, compute), v = rounded(v_in, compute);
  const int64_t tokens = q.size(0), heads = q.size(1), head_dim = q.size(2);
  at::Tensor out = at::empty({tokens, heads, head_dim}, q.options());
  const at::Tensor logsumexp = at::empty({heads, tokens}, q.options());
  const Problem problem(q, k, v, options, dropout);
  const HeadsView out_view(out);
  float* lse = logsumexp.mutable_data_ptr<float>();
  run_attention_tasks<Scratch>(cu_seqlens, k.size(1), head_dim,
                               [&](const AttentionTask& task, const Scratch& scratch) {
                                 forward_task(problem, task, scratch, out_view, lse, tokens);
                               });
  if (saved != nullptr) saved->tensors = {logsumexp};
  return rounded(out, compute);
}

AttentionGrads fused_attention_backward(const at::Tensor& grad_out_in, const at::Tensor& q_in,
                                        const at::Tensor& k_in, const at::Tensor& v_in, const at::Tensor& out,
                                        std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                        const DropoutSite* dropout, ComputeDtype compute,
                                        const AttentionSaved& saved) {
  const at::Tensor q = rounded(q_in, compute), k = rounded(k_in, compute), v = rounded(v_in, compute);
  const at::Tensor grad_out = rounded(grad_out_in, compute).contiguous();
  const int64_t tokens = q.size(0), head_dim = q.size(2);
  AttentionGrads grads{at::empty(q.sizes(), q.options()), at::zeros(k.sizes(), k.options()),
                       at::zeros(v.sizes(), v.options())};
  const Problem problem(q, k, v, options, dropout);
  const BackwardViews views{HeadsView(grad_out), HeadsView(out), HeadsView(grads.q), HeadsView(grads.k),
                            HeadsView(grads.v)};
  const float* lse = saved.tensors.at(0).const_data_ptr<float>();
  run_attention_tasks<Scratch>(cu_seqlens, k.size(1), head_dim,
                               [&](const AttentionTask& task, const Scratch& scratch) {
                                 backward_task(problem, task, scratch, views, lse, tokens);
                               });
  return grads;
}

}  // namespace sft::ops::cpu
