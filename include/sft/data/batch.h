// The packed batch: rows lie behind one another, padding does not exist.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace sft::data {

inline constexpr int32_t kIgnoreIndex = -100;

// Identifies a row for anything random that happens to it (dropout): independent of how rows are dealt to
// ranks.
struct RowId {
  int64_t epoch = 0;
  int64_t position = 0;  // index in the epoch's order
  int64_t row = 0;       // index in the data set file
};

// T tokens of R rows. Tensors are on the CPU, contiguous. T == 0 and R == 0: an empty micro-batch.
struct MicroBatch {
  at::Tensor input_ids;             // int64 [T]
  at::Tensor position_ids;          // int64 [T], from 0 in every row
  std::vector<int64_t> cu_seqlens;  // [R + 1]: row r is tokens [cu_seqlens[r], cu_seqlens[r + 1])
  at::Tensor target_positions;      // int64 [N]: the tokens whose *next* token is learnt, ascending
  at::Tensor target_ids;            // int64 [N]: that next token
  std::vector<RowId> rows;          // [R]
  int64_t num_first_labels =
      0;  // rows whose column 0 carries a label (never a target; what GPT-2 in transformers also counts)

  int64_t num_tokens() const { return cu_seqlens.empty() ? 0 : cu_seqlens.back(); }
  int64_t num_rows() const { return static_cast<int64_t>(rows.size()); }
  int64_t num_targets() const { return target_ids.defined() ? target_ids.numel() : 0; }
  bool empty() const { return rows.empty(); }
};

// Rows to pack, before they become a MicroBatch.
struct TokenRow {
  RowId id;
  std::vector<int32_t> input_ids;
  std::vector<int32_t>
      labels;  // as Hugging Face: same length, not shifted, kIgnoreIndex where nothing is learnt
};

// Local.
MicroBatch pack(const std::vector<TokenRow>& rows);

}  // namespace sft::data
