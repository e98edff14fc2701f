// Causal attention in fp32. A task is one row and one key/value head with its group of query heads; within it
// a block of queries sees all its keys at once. Tasks share nothing, so the result does not depend on which
// thread runs which.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cpu/cpu.h"
#include "ops/cpu/simd.h"
#include "ops/cpu/small_gemm.h"
#include "sft/base/checked.h"

namespace sft::ops::cpu {
namespace {

constexpr int64_t kQueries = 64;  // per block

struct Task {
  int64_t begin, length, kv_head;
};

// Longest first, so that the last ones to finish are short.
std::vector<Task> make_tasks(std::span<const int64_t> cu_seqlens, int64_t kv_heads) {
  std::vector<Task> tasks;
  for (std::size_t r = 0; r + 1 < cu_seqlens.size(); ++r) {
    for (int64_t head = 0; head < kv_heads; ++head) {
      tasks.push_back({cu_seqlens[r], cu_seqlens[r + 1] - cu_seqlens[r], head});
    }
  }
  std::ranges::stable_sort(tasks, std::greater<>{}, &Task::length);
  return tasks;
}

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

// [length, head_dim] -> [head_dim, padded], zeros behind.
void transpose(const float* from, int64_t row_stride, int64_t length, int64_t head_dim, int64_t padded,
               float* to) {
  constexpr int64_t kTile = 16;
  for (int64_t j0 = 0; j0 < padded; j0 += kTile) {
    for (int64_t d = 0; d < head_dim; ++d) {
      for (int64_t j = j0; j < j0 + kTile; ++j)
        to[d * padded + j] = j < length ? from[j * row_stride + d] : 0.0F;
    }
  }
}

// The scores of a row that its query sees, of `padded` ones.
struct Visible {
  int64_t begin, end;
};

// scores <- softmax(scale * visible scores), zeros elsewhere. Returns log(sum(exp(scale * scores))).
SFT_SIMD float softmax_row(float* scores, float scale, Visible visible, int64_t padded) {
  const int64_t begin = visible.begin, end = visible.end;
  float top = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : top)
  for (int64_t j = begin; j < end; ++j) top = scores[j] > top ? scores[j] : top;
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = begin; j < end; ++j) {
    scores[j] = exp_simd(scale * (scores[j] - top));
    sum += scores[j];
  }
  const float factor = 1.0F / sum;
#pragma omp simd
  for (int64_t j = begin; j < end; ++j) scores[j] *= factor;
  for (int64_t j = 0; j < begin; ++j) scores[j] = 0.0F;
  for (int64_t j = end; j < padded; ++j) scores[j] = 0.0F;
  return scale * top + std::log(sum);
}

// scores <- probabilities, from the row's logsumexp; grad <- gradient of the unscaled scores, from that of
// the probabilities.
SFT_SIMD void softmax_backward_row(float* scores, float* grad, float scale, float logsumexp, float delta,
                                   Visible visible, int64_t padded) {
  const int64_t begin = visible.begin, end = visible.end;
#pragma omp simd
  for (int64_t j = begin; j < end; ++j) {
    scores[j] = exp_simd(scale * scores[j] - logsumexp);
    grad[j] = scale * scores[j] * (grad[j] - delta);
  }
  for (int64_t j = 0; j < begin; ++j) scores[j] = grad[j] = 0.0F;
  for (int64_t j = end; j < padded; ++j) scores[j] = grad[j] = 0.0F;
}

SFT_SIMD float dot(const float* a, const float* b, int64_t n) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// Scratch of one thread for rows of at most `longest` tokens.
struct Scratch {
  static int64_t padded(int64_t length) { return base::round_up(length, kGemmColumns); }
  static int64_t size(int64_t longest, int64_t head_dim) {
    return 2 * padded(longest) * (head_dim + kQueries);
  }

  Scratch(float* memory, int64_t length, int64_t head_dim) : stride(padded(length)) {
    keys = memory;
    values = keys + head_dim * stride;
    scores = values + head_dim * stride;
    grads = scores + kQueries * stride;
  }
  int64_t stride;         // of the rows below
  float *keys, *values;   // transposed: [head_dim, stride]
  float *scores, *grads;  // [kQueries, stride]
};

struct Problem {
  HeadsView q, k, v;
  int64_t head_dim, groups;
  float scale;
  int64_t window;  // keys a query sees, its own included

  Problem(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in,
          const AttentionOptions& options)
      : q(q_in),
        k(k_in),
        v(v_in),
        head_dim(q_in.size(2)),
        groups(q_in.size(1) / k_in.size(1)),
        scale(static_cast<float>(options.scale)),
        window(options.sliding_window.value_or(std::numeric_limits<int64_t>::max())) {}
  // The first key, counted in the row, that a query sees.
  int64_t first_key(int64_t query) const { return query < window ? 0 : query - window + 1; }
};

// scores [queries, keys] = q k^T: the queries of a block and the keys any of them sees.
struct Block {
  int64_t first, queries;                // in the row
  int64_t first_key, keys, padded_keys;  // first_key on a column boundary of the products
  const Problem& problem;

  Block(const Problem& p, int64_t first_query, int64_t length)
      : first(first_query),
        queries(std::min(kQueries, length - first_query)),
        first_key(p.first_key(first_query) / kGemmColumns * kGemmColumns),
        keys(first_query + queries - first_key),
        padded_keys(Scratch::padded(keys)),
        problem(p) {}
  Visible visible(int64_t i) const {
    return {problem.first_key(first + i) - first_key, first + i + 1 - first_key};
  }
};

void forward_task(const Problem& p, const Task& task, Scratch s, const HeadsView& out, float* logsumexp,
                  int64_t tokens) {
  transpose(p.k.at(task.begin, task.kv_head), p.k.token_stride, task.length, p.head_dim, s.stride, s.keys);
  for (int64_t head = task.kv_head * p.groups; head < (task.kv_head + 1) * p.groups; ++head) {
    for (int64_t first = 0; first < task.length; first += kQueries) {
      const Block b(p, first, task.length);
      const int64_t token = task.begin + first;
      small_gemm({b.queries,
                  b.padded_keys,
                  p.head_dim,
                  {p.q.at(token, head), p.q.token_stride, 1},
                  s.keys + b.first_key,
                  s.stride,
                  s.scores,
                  s.stride,
                  false});
      for (int64_t i = 0; i < b.queries; ++i) {
        logsumexp[head * tokens + token + i] =
            softmax_row(s.scores + i * s.stride, p.scale, b.visible(i), b.padded_keys);
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

void backward_task(const Problem& p, const Task& task, Scratch s, const BackwardViews& g,
                   const float* logsumexp, int64_t tokens) {
  const int64_t kv = task.kv_head, start = task.begin;
  transpose(p.k.at(start, kv), p.k.token_stride, task.length, p.head_dim, s.stride, s.keys);
  transpose(p.v.at(start, kv), p.v.token_stride, task.length, p.head_dim, s.stride, s.values);
  for (int64_t head = kv * p.groups; head < (kv + 1) * p.groups; ++head) {
    for (int64_t first = 0; first < task.length; first += kQueries) {
      const Block b(p, first, task.length);
      const int64_t token = start + first, key = start + b.first_key;
      const StridedMatrix q{p.q.at(token, head), p.q.token_stride, 1};
      const StridedMatrix grad_out{g.grad_out.at(token, head), g.grad_out.token_stride, 1};
      small_gemm({b.queries, b.padded_keys, p.head_dim, q, s.keys + b.first_key, s.stride, s.scores, s.stride,
                  false});
      small_gemm({b.queries, b.padded_keys, p.head_dim, grad_out, s.values + b.first_key, s.stride, s.grads,
                  s.stride, false});
      for (int64_t i = 0; i < b.queries; ++i) {
        const float delta = dot(g.grad_out.at(token + i, head), g.out.at(token + i, head), p.head_dim);
        softmax_backward_row(s.scores + i * s.stride, s.grads + i * s.stride, p.scale,
                             logsumexp[head * tokens + token + i], delta, b.visible(i), b.padded_keys);
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

// Runs body(task, scratch) for all tasks, on at::get_num_threads() threads, each taking the next task when it
// is free.
template <typename Body>
void run_tasks(std::span<const int64_t> cu_seqlens, int64_t kv_heads, int64_t head_dim, const Body& body) {
  const std::vector<Task> tasks = make_tasks(cu_seqlens, kv_heads);
  if (tasks.empty()) return;
  const auto count = static_cast<int64_t>(tasks.size());
  const int threads = static_cast<int>(std::min<int64_t>(at::get_num_threads(), count));
  const int64_t scratch_size = Scratch::size(tasks.front().length, head_dim);
  const at::Tensor memory = at::empty({threads, scratch_size}, at::TensorOptions(at::kFloat));
  float* const scratch = memory.mutable_data_ptr<float>();
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < count; ++i) {
    const Task& task = tasks[static_cast<std::size_t>(i)];
    if (task.length == 0) continue;
    body(task, Scratch(scratch + omp_get_thread_num() * scratch_size, task.length, head_dim));
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
                                   ComputeDtype compute, AttentionSaved* saved) {
  const at::Tensor q = rounded(q_in, compute), k = rounded(k_in, compute), v = rounded(v_in, compute);
  const int64_t tokens = q.size(0), heads = q.size(1), head_dim = q.size(2);
  at::Tensor out = at::empty({tokens, heads, head_dim}, q.options());
  const at::Tensor logsumexp = at::empty({heads, tokens}, q.options());
  const Problem problem(q, k, v, options);
  const HeadsView out_view(out);
  float* lse = logsumexp.mutable_data_ptr<float>();
  run_tasks(cu_seqlens, k.size(1), head_dim, [&](const Task& task, const Scratch& scratch) {
    forward_task(problem, task, scratch, out_view, lse, tokens);
  });
  if (saved != nullptr) saved->tensors = {logsumexp};
  return rounded(out, compute);
}

AttentionGrads fused_attention_backward(const at::Tensor& grad_out_in, const at::Tensor& q_in,
                                        const at::Tensor& k_in, const at::Tensor& v_in, const at::Tensor& out,
                                        std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                        ComputeDtype compute, const AttentionSaved& saved) {
  const at::Tensor q = rounded(q_in, compute), k = rounded(k_in, compute), v = rounded(v_in, compute);
  const at::Tensor grad_out = rounded(grad_out_in, compute).contiguous();
  const int64_t tokens = q.size(0), head_dim = q.size(2);
  AttentionGrads grads{at::empty(q.sizes(), q.options()), at::zeros(k.sizes(), k.options()),
                       at::zeros(v.sizes(), v.options())};
  const Problem problem(q, k, v, options);
  const BackwardViews views{HeadsView(grad_out), HeadsView(out), HeadsView(grads.q), HeadsView(grads.k),
                            HeadsView(grads.v)};
  const float* lse = saved.tensors.at(0).const_data_ptr<float>();
  run_tasks(cu_seqlens, k.size(1), head_dim, [&](const Task& task, const Scratch& scratch) {
    backward_task(problem, task, scratch, views, lse, tokens);
  });
  return grads;
}

}  // namespace sft::ops::cpu
