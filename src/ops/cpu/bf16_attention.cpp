// Causal attention with bf16 operands on processors that multiply them, sums in fp32. Gradients of keys and
// values are summed transposed, [head_dim, keys]: so the block's probabilities and their gradients serve as
// right operands, for which two queries' rows are put into words, and need not be transposed themselves.
#include <ATen/ops/empty.h>

#include <utility>

#include "ops/cpu/attention_tasks.h"
#include "ops/cpu/bf16_gemm.h"
#include "ops/cpu/cpu.h"
#include "ops/cpu/simd.h"

namespace sft::ops::cpu {
namespace {

constexpr int64_t kPairs = kQueriesPerBlock / 2;  // of queries, in a block

// [T, heads, head_dim] of bf16, contiguous features, as words of two features.
struct Words {
  uint32_t* data;
  int64_t token_stride, head_stride;
  explicit Words(const at::Tensor& t)
      : data(static_cast<uint32_t*>(const_cast<void*>(t.const_data_ptr()))),
        token_stride(t.stride(0) / 2),
        head_stride(t.stride(1) / 2) {}
  uint32_t* at(int64_t token, int64_t head) const { return data + token * token_stride + head * head_stride; }
  uint16_t* values(int64_t token, int64_t head) const { return reinterpret_cast<uint16_t*>(at(token, head)); }
};

SFT_SIMD void pair(const uint16_t* first, const uint16_t* second, uint32_t* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i)
    to[i] = static_cast<uint32_t>(first[i]) | static_cast<uint32_t>(second[i]) << 16;
}

// bf16 [rows, columns] -> words [pairs, columns] of two rows each, zeros behind.
void pair_rows(const uint16_t* from, int64_t row_stride, int64_t rows, int64_t columns, int64_t pairs,
               uint32_t* to) {
  for (int64_t p = 0; p < pairs; ++p, to += columns) {
    const uint16_t* first = from + 2 * p * row_stride;
    if (2 * p + 1 < rows) {
      pair(first, first + row_stride, to, columns);
    } else if (2 * p < rows) {
      std::copy_n(first, columns, to);
    } else {
      std::fill_n(to, columns, 0U);
    }
  }
}

using Bf16Problem = AttentionProblem<Words>;

// Parts of one thread's scratch, which holds words and floats of four bytes.
class Carver {
 public:
  explicit Carver(float* memory) : next_(memory) {}
  uint32_t* words(int64_t count) { return reinterpret_cast<uint32_t*>(take(count)); }
  float* floats(int64_t count) { return take(count); }

 private:
  float* take(int64_t count) { return std::exchange(next_, next_ + count); }
  float* next_;
};

struct ForwardScratch {
  static int64_t size(int64_t length, int64_t head_dim) {
    return padded_keys(length) * (head_dim + kQueriesPerBlock * 3 / 2 + 1) + kQueriesPerBlock * head_dim;
  }
  ForwardScratch(float* floats, int64_t length, int64_t head_dim) : stride(padded_keys(length)) {
    Carver memory(floats);
    keys = memory.words(head_dim / 2 * stride);
    values = memory.words(stride / 2 * head_dim);
    scores = memory.floats(kQueriesPerBlock * stride);
    probabilities = memory.words(kQueriesPerBlock * stride / 2);
    out = memory.floats(kQueriesPerBlock * head_dim);
    mask = memory.floats(stride);
  }
  int64_t stride;
  uint32_t *keys, *values;  // [head_dim / 2, stride], [stride / 2, head_dim]
  float* scores;            // [queries, stride]
  uint32_t* probabilities;  // [queries, stride / 2]
  float* out;               // [queries, head_dim]
  float* mask;              // [stride]
};

void forward_task(const Bf16Problem& p, const AttentionTask& task, const ForwardScratch& s, const Words& out,
                  float* logsumexp, int64_t tokens) {
  transpose(p.k.at(task.begin, task.kv_head), p.k.token_stride, task.length, p.head_dim / 2, s.stride,
            s.keys);
  pair_rows(p.v.values(task.begin, task.kv_head), 2 * p.v.token_stride, task.length, p.head_dim, s.stride / 2,
            s.values);
  for (int64_t head = task.kv_head * p.groups; head < (task.kv_head + 1) * p.groups; ++head) {
    for (int64_t first = 0; first < task.length; first += kQueriesPerBlock) {
      const AttentionBlock b(p.window, first, task.length);
      const int64_t token = task.begin + first;
      bf16_gemm({b.queries, b.padded, p.head_dim / 2, p.q.at(token, head), p.q.token_stride,
                 s.keys + b.first_key, s.stride, s.scores, s.stride, false});
      for (int64_t i = 0; i < b.queries; ++i) {
        float* const scores = s.scores + i * s.stride;
        logsumexp[head * tokens + token + i] = softmax_row(scores, p.rule(head), b.visible(i), b.padded);
        if (p.dropout != nullptr) {
          p.fill_mask(task, head, b, i, s.mask);
          multiply_row(scores, s.mask, b.visible(i));
        }
        round_to_bf16(scores, reinterpret_cast<uint16_t*>(s.probabilities + i * s.stride / 2), b.padded);
      }
      bf16_gemm({b.queries, p.head_dim, b.padded / 2, s.probabilities, s.stride / 2,
                 s.values + b.first_key / 2 * p.head_dim, p.head_dim, s.out, p.head_dim, false});
      for (int64_t i = 0; i < b.queries; ++i)
        round_to_bf16(s.out + i * p.head_dim, out.values(token + i, head), p.head_dim);
    }
  }
}

struct BackwardScratch {
  static int64_t size(int64_t length, int64_t head_dim) {
    return padded_keys(length) * (head_dim * 7 / 2 + kQueriesPerBlock * 7 / 2 + 1) + 3 * kPairs * head_dim;
  }
  BackwardScratch(float* floats, int64_t length, int64_t head_dim) : stride(padded_keys(length)) {
    Carver memory(floats);
    keys = memory.words(head_dim / 2 * stride);
    values = memory.words(head_dim / 2 * stride);
    paired_keys = memory.words(stride / 2 * head_dim);
    grad_keys = memory.floats(head_dim * stride);
    grad_values = memory.floats(head_dim * stride);
    scores = memory.floats(kQueriesPerBlock * stride);
    grads = memory.floats(kQueriesPerBlock * stride);
    grad_rows = memory.words(kQueriesPerBlock * stride / 2);
    score_pairs = memory.words(kPairs * stride);
    grad_pairs = memory.words(kPairs * stride);
    pairs = memory.words(kPairs * head_dim);
    queries = memory.words(head_dim * kPairs);
    grad_out = memory.words(head_dim * kPairs);
    mask = memory.floats(stride);
  }
  int64_t stride;
  uint32_t *keys, *values;             // [head_dim / 2, stride]
  uint32_t* paired_keys;               // [stride / 2, head_dim]
  float *grad_keys, *grad_values;      // [head_dim, stride]
  float *scores, *grads;               // [queries, stride]
  uint32_t* grad_rows;                 // [queries, stride / 2]
  uint32_t *score_pairs, *grad_pairs;  // [kPairs, stride]
  uint32_t* pairs;                     // [kPairs, head_dim]
  uint32_t *queries, *grad_out;        // [head_dim, kPairs]
  float* mask;                         // [stride]
};

struct BackwardTensors {
  Words grad_out, out;
  float* grad_q;           // [T, H, head_dim]
  float *grad_k, *grad_v;  // [T, K, head_dim]
  int64_t heads, kv_heads;
};

// Probabilities and their gradients of a block, as rows and as pairs of rows.
void backward_scores(const Bf16Problem& p, const AttentionTask& task, const AttentionBlock& b,
                     const BackwardScratch& s, const BackwardTensors& t, const float* logsumexp,
                     int64_t head) {
  const int64_t token = task.begin + b.first;
  for (int64_t i = 0; i < b.queries; ++i) {
    float *const scores = s.scores + i * s.stride, *const grads = s.grads + i * s.stride;
    const float delta =
        dot_bf16(t.grad_out.values(token + i, head), t.out.values(token + i, head), p.head_dim);
    if (p.dropout != nullptr) {
      p.fill_mask(task, head, b, i, s.mask);
      multiply_row(grads, s.mask, b.visible(i));
    }
    softmax_backward_row(scores, grads, p.rule(head), logsumexp[i], delta, b.visible(i), b.padded);
    if (p.dropout != nullptr) multiply_row(scores, s.mask, b.visible(i));
    round_to_bf16(grads, reinterpret_cast<uint16_t*>(s.grad_rows + i * s.stride / 2), b.padded);
  }
  if (b.queries % 2 == 1) {
    std::fill_n(s.scores + b.queries * s.stride, b.padded, 0.0F);
    std::fill_n(s.grads + b.queries * s.stride, b.padded, 0.0F);
  }
  for (int64_t i = 0; i < b.queries; i += 2) {
    const int64_t at = i * s.stride, next = at + s.stride;
    round_to_pairs(s.scores + at, s.scores + next, s.score_pairs + at / 2, b.padded);
    round_to_pairs(s.grads + at, s.grads + next, s.grad_pairs + at / 2, b.padded);
  }
}

// c [head_dim, keys] += transposed rows [queries, head_dim] times weights [queries, keys].
void add_transposed(const Bf16Problem& p, const AttentionBlock& b, const BackwardScratch& s,
                    const Words& rows, int64_t token, int64_t head, uint32_t* transposed,
                    const uint32_t* weights, float* c) {
  const int64_t pairs = base::ceil_div(b.queries, int64_t{2});
  pair_rows(rows.values(token, head), 2 * rows.token_stride, b.queries, p.head_dim, pairs, s.pairs);
  transpose(s.pairs, p.head_dim, pairs, p.head_dim, kPairs, transposed);
  bf16_gemm(
      {p.head_dim, b.padded, pairs, transposed, kPairs, weights, s.stride, c + b.first_key, s.stride, true});
}

// [head_dim, stride] -> rows of [T, K, head_dim]
void store_transposed(const float* from, int64_t stride, const AttentionTask& task, int64_t kv_heads,
                      int64_t head_dim, float* to) {
  for (int64_t j = 0; j < task.length; ++j) {
    float* row = to + ((task.begin + j) * kv_heads + task.kv_head) * head_dim;
    for (int64_t d = 0; d < head_dim; ++d) row[d] = from[d * stride + j];
  }
}

void backward_task(const Bf16Problem& p, const AttentionTask& task, const BackwardScratch& s,
                   const BackwardTensors& t, const float* logsumexp, int64_t tokens) {
  const int64_t kv = task.kv_head, dim = p.head_dim;
  transpose(p.k.at(task.begin, kv), p.k.token_stride, task.length, p.head_dim / 2, s.stride, s.keys);
  transpose(p.v.at(task.begin, kv), p.v.token_stride, task.length, p.head_dim / 2, s.stride, s.values);
  pair_rows(p.k.values(task.begin, kv), 2 * p.k.token_stride, task.length, dim, s.stride / 2, s.paired_keys);
  std::fill_n(s.grad_keys, dim * s.stride, 0.0F);
  std::fill_n(s.grad_values, dim * s.stride, 0.0F);
  for (int64_t head = kv * p.groups; head < (kv + 1) * p.groups; ++head) {
    for (int64_t first = 0; first < task.length; first += kQueriesPerBlock) {
      const AttentionBlock b(p.window, first, task.length);
      const int64_t token = task.begin + first;
      bf16_gemm({b.queries, b.padded, p.head_dim / 2, p.q.at(token, head), p.q.token_stride,
                 s.keys + b.first_key, s.stride, s.scores, s.stride, false});
      bf16_gemm({b.queries, b.padded, p.head_dim / 2, t.grad_out.at(token, head), t.grad_out.token_stride,
                 s.values + b.first_key, s.stride, s.grads, s.stride, false});
      backward_scores(p, task, b, s, t, logsumexp + head * tokens + token, head);
      bf16_gemm({b.queries, dim, b.padded / 2, s.grad_rows, s.stride / 2,
                 s.paired_keys + b.first_key / 2 * dim, dim, t.grad_q + (token * t.heads + head) * dim,
                 t.heads * dim, false});
      add_transposed(p, b, s, p.q, token, head, s.queries, s.grad_pairs, s.grad_keys);
      add_transposed(p, b, s, t.grad_out, token, head, s.grad_out, s.score_pairs, s.grad_values);
    }
  }
  store_transposed(s.grad_keys, s.stride, task, t.kv_heads, dim, t.grad_k);
  store_transposed(s.grad_values, s.stride, task, t.kv_heads, dim, t.grad_v);
}

// In bf16, every row of features at an even place.
at::Tensor words_of(const at::Tensor& t) {
  const at::Tensor rounded = t.to(at::kBFloat16);
  const bool even = rounded.stride(2) == 1 && rounded.stride(0) % 2 == 0 && rounded.stride(1) % 2 == 0 &&
                    rounded.storage_offset() % 2 == 0;
  return even ? rounded : rounded.contiguous();
}

}  // namespace

at::Tensor bf16_attention_forward(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in,
                                  std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                  const DropoutSite* dropout, AttentionSaved* saved) {
  const at::Tensor q = words_of(q_in), k = words_of(k_in), v = words_of(v_in);
  const int64_t tokens = q.size(0), heads = q.size(1), head_dim = q.size(2);
  const at::Tensor out = at::empty({tokens, heads, head_dim}, q.options());
  const at::Tensor logsumexp = at::empty({heads, tokens}, q.options().dtype(at::kFloat));
  const Bf16Problem problem(q, k, v, options, dropout);
  const Words out_words(out);
  float* const lse = logsumexp.mutable_data_ptr<float>();
  run_attention_tasks<ForwardScratch>(cu_seqlens, k.size(1), head_dim,
                                      [&](const AttentionTask& task, const ForwardScratch& scratch) {
                                        forward_task(problem, task, scratch, out_words, lse, tokens);
                                      });
  if (saved != nullptr) saved->tensors = {logsumexp};
  return out.to(q_in.scalar_type());
}

AttentionGrads bf16_attention_backward(const at::Tensor& grad_out_in, const at::Tensor& q_in,
                                       const at::Tensor& k_in, const at::Tensor& v_in,
                                       const at::Tensor& out_in, std::span<const int64_t> cu_seqlens,
                                       const AttentionOptions& options, const DropoutSite* dropout,
                                       const AttentionSaved& saved) {
  const at::Tensor q = words_of(q_in), k = words_of(k_in), v = words_of(v_in);
  const at::Tensor grad_out = words_of(grad_out_in), out = words_of(out_in);
  const int64_t tokens = q.size(0), head_dim = q.size(2);
  const at::TensorOptions fp32 = q.options().dtype(at::kFloat);
  AttentionGrads grads{at::empty(q.sizes(), fp32), at::empty(k.sizes(), fp32), at::empty(v.sizes(), fp32)};
  const Bf16Problem problem(q, k, v, options, dropout);
  const BackwardTensors tensors{Words(grad_out),
                                Words(out),
                                grads.q.mutable_data_ptr<float>(),
                                grads.k.mutable_data_ptr<float>(),
                                grads.v.mutable_data_ptr<float>(),
                                q.size(1),
                                k.size(1)};
  const float* const lse = saved.tensors.at(0).const_data_ptr<float>();
  run_attention_tasks<BackwardScratch>(cu_seqlens, k.size(1), head_dim,
                                       [&](const AttentionTask& task, const BackwardScratch& scratch) {
                                         backward_task(problem, task, scratch, tensors, lse, tokens);
                                       });
  return grads;
}

}  // namespace sft::ops::cpu
