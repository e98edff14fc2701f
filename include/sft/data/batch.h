// The packed batch: rows lie behind one another, padding does not exist. A row is one segment, or several
// where packing put several documents into it; attention and positions know segments only.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "sft/data/dataset_info.h"

namespace sft::data {

// Identifies a row's segment for anything random that happens to it (dropout): independent of how rows are
// dealt to ranks.
struct RowId {
  int64_t epoch = 0;
  int64_t position = 0;  // index in the epoch's order
  int64_t row = 0;       // index in the data set file (of a packed row's first document)
  int64_t segment = 0;   // within the row
};

// T tokens of S segments. Tensors are on the CPU, contiguous. T == 0 and S == 0: an empty micro-batch.
struct MicroBatch {
  at::Tensor input_ids;             // int64 [T]
  at::Tensor position_ids;          // int64 [T], from 0 in every segment
  std::vector<int64_t> cu_seqlens;  // [S + 1]: segment s is tokens [cu_seqlens[s], cu_seqlens[s + 1])
  at::Tensor target_positions;      // int64 [N]: the tokens whose *next* token is learnt, ascending
  at::Tensor target_ids;            // int64 [N]: that next token
  std::vector<RowId> rows;          // [S]: the row of each segment
  int64_t num_first_labels = 0;  // segments whose first token carries a label (never a target; what GPT-2 in
                                 // transformers also counts)

  int64_t num_tokens() const { return cu_seqlens.empty() ? 0 : cu_seqlens.back(); }
  int64_t num_rows() const {
    return std::count_if(rows.begin(), rows.end(), [](const RowId& id) { return id.segment == 0; });
  }
  int64_t num_targets() const { return target_ids.defined() ? target_ids.numel() : 0; }
  bool empty() const { return rows.empty(); }
};

// Rows to pack, before they become a MicroBatch.
struct TokenRow {
  RowId id;
  std::vector<int32_t> input_ids;
  std::vector<int32_t>
      labels;  // as Hugging Face: same length, not shifted, kIgnoreIndex where nothing is learnt
  std::vector<int64_t> segment_lengths = {};  // of a packed row; empty: one segment
};

// Local.
MicroBatch pack(const std::vector<TokenRow>& rows);

}  // namespace sft::data
