// How attention over packed rows is cut. A task is one row and one key/value head with its group of query
// heads; within it a block of queries sees all its keys at once. Tasks share nothing, so results do not
// depend on which thread runs which.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "ops/cpu/attention_rows.h"
#include "ops/cpu/small_gemm.h"
#include "ops/dropout.h"
#include "sft/base/checked.h"
#include "sft/ops/ops.h"

namespace sft::ops::cpu {

inline constexpr int64_t kQueriesPerBlock = 64;
inline constexpr int64_t kKeyAlignment = kGemmColumns;

inline int64_t padded_keys(int64_t length) {
  return base::round_up(length, kKeyAlignment);
}

struct AttentionTask {
  int64_t row, begin, length, kv_head;
};

// Longest first, so that the last ones to finish are short.
inline std::vector<AttentionTask> attention_tasks(std::span<const int64_t> cu_seqlens, int64_t kv_heads) {
  std::vector<AttentionTask> tasks;
  for (std::size_t r = 0; r + 1 < cu_seqlens.size(); ++r) {
    const int64_t length = cu_seqlens[r + 1] - cu_seqlens[r];
    if (length == 0) continue;
    for (int64_t head = 0; head < kv_heads; ++head)
      tasks.push_back({static_cast<int64_t>(r), cu_seqlens[r], length, head});
  }
  std::ranges::stable_sort(tasks, std::greater<>{}, &AttentionTask::length);
  return tasks;
}

// Which keys a query sees.
struct KeyWindow {
  int64_t width;  // its own included
  explicit KeyWindow(const AttentionOptions& options)
      : width(options.sliding_window.value_or(std::numeric_limits<int64_t>::max())) {}
  // The first key, counted in the row.
  int64_t first_key(int64_t query) const { return query < width ? 0 : query - width + 1; }
};

// The queries of a block and the keys any of them sees, counted in the row.
struct AttentionBlock {
  int64_t first, queries;
  int64_t first_key, keys, padded;  // first_key a multiple of kKeyAlignment
  KeyWindow window;

  AttentionBlock(const KeyWindow& w, int64_t first_query, int64_t length)
      : first(first_query),
        queries(std::min(kQueriesPerBlock, length - first_query)),
        first_key(w.first_key(first_query) / kKeyAlignment * kKeyAlignment),
        keys(first_query + queries - first_key),
        padded(padded_keys(keys)),
        window(w) {}
  VisibleKeys visible(int64_t query) const {
    return {window.first_key(first + query) - first_key, first + query + 1 - first_key};
  }
};

// [rows, columns] -> [columns, padded], zeros behind; padded is a multiple of kKeyAlignment.
template <typename T>
void transpose(const T* from, int64_t row_stride, int64_t rows, int64_t columns, int64_t padded, T* to) {
  for (int64_t j0 = 0; j0 < padded; j0 += kKeyAlignment) {
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t j = j0; j < j0 + kKeyAlignment; ++j)
        to[c * padded + j] = j < rows ? from[j * row_stride + c] : T{};
    }
  }
}

// Views of queries, keys and values, and how they meet.
template <typename View>
struct AttentionProblem {
  View q, k, v;
  int64_t head_dim, groups;
  KeyWindow window;
  const AttentionOptions& options;
  const DropoutSite* dropout;  // null: none

  AttentionProblem(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in,
                   const AttentionOptions& options_in, const DropoutSite* dropout_in)
      : q(q_in),
        k(k_in),
        v(v_in),
        head_dim(q_in.size(2)),
        groups(q_in.size(1) / k_in.size(1)),
        window(options_in),
        options(options_in),
        dropout(is_active(dropout_in) ? dropout_in : nullptr) {}

  ScoreRule rule(int64_t head) const {
    const auto& slopes = options.alibi_slopes;
    return {static_cast<float>(options.scale), static_cast<float>(options.softcap.value_or(0.0)),
            slopes.empty() ? 0.0F : static_cast<float>(slopes[static_cast<std::size_t>(head)])};
  }
  // mask[j] for the keys that query i of the block sees. Elements of a row are counted (head, query, key).
  void fill_mask(const AttentionTask& task, int64_t head, const AttentionBlock& b, int64_t i,
                 float* mask) const {
    const VisibleKeys keys = b.visible(i);
    const int64_t first = (head * task.length + b.first + i) * task.length + b.first_key + keys.begin;
    fill_dropout_mask(*dropout, task.row, first, keys.end - keys.begin, mask + keys.begin);
  }
};

// Runs body(task, Scratch) for all tasks, on at most at::get_num_threads() threads, each taking the next task
// when it is free. Scratch is made of a thread's Scratch::size(length, head_dim) floats.
template <typename Scratch, typename Body>
void run_attention_tasks(std::span<const int64_t> cu_seqlens, int64_t kv_heads, int64_t head_dim,
                         const Body& body) {
  const std::vector<AttentionTask> tasks = attention_tasks(cu_seqlens, kv_heads);
  if (tasks.empty()) return;
  const auto count = static_cast<int64_t>(tasks.size());
  const int threads = static_cast<int>(std::min<int64_t>(at::get_num_threads(), count));
  const int64_t size = Scratch::size(tasks.front().length, head_dim);
  const at::Tensor memory = at::empty({threads, size}, at::TensorOptions(at::kFloat));
  float* const scratch = memory.mutable_data_ptr<float>();
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < count; ++i) {
    const AttentionTask& task = tasks[static_cast<std::size_t>(i)];
    body(task, Scratch(scratch + omp_get_thread_num() * size, task.length, head_dim));
  }
}

}  // namespace sft::ops::cpu
