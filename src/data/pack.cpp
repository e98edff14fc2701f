#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <numeric>
#include <span>

#include "sft/data/batch.h"

namespace sft::data {
namespace {

// A part of a row that attends to itself.
struct Segment {
  RowId id;
  std::span<const int32_t> input_ids, labels;
};

std::vector<Segment> segments_of(const std::vector<TokenRow>& rows) {
  std::vector<Segment> segments;
  for (const TokenRow& row : rows) {
    std::span<const int32_t> ids = row.input_ids, labels = row.labels;
    RowId id = row.id;
    for (const int64_t length : row.segment_lengths) {
      const auto size = static_cast<std::size_t>(length);
      segments.push_back({id, ids.first(size), labels.first(size)});
      ids = ids.subspan(size);
      labels = labels.subspan(size);
      ++id.segment;
    }
    if (row.segment_lengths.empty()) segments.push_back({id, ids, labels});
  }
  return segments;
}

struct Sizes {
  int64_t tokens = 0, targets = 0;
};

Sizes count(const std::vector<Segment>& segments) {
  Sizes sizes;
  for (const Segment& segment : segments) {
    sizes.tokens += static_cast<int64_t>(segment.input_ids.size());
    for (std::size_t t = 1; t < segment.labels.size(); ++t)
      sizes.targets += segment.labels[t] != kIgnoreIndex;
  }
  return sizes;
}

at::Tensor new_ids(int64_t count) {
  return at::empty({count}, at::TensorOptions().dtype(at::kLong));
}

}  // namespace

MicroBatch pack(const std::vector<TokenRow>& rows) {
  const std::vector<Segment> segments = segments_of(rows);
  const Sizes sizes = count(segments);
  MicroBatch batch;
  batch.input_ids = new_ids(sizes.tokens);
  batch.position_ids = new_ids(sizes.tokens);
  batch.target_positions = new_ids(sizes.targets);
  batch.target_ids = new_ids(sizes.targets);
  batch.cu_seqlens.reserve(segments.size() + 1);
  batch.cu_seqlens.push_back(0);
  batch.rows.reserve(segments.size());

  int64_t* input_id = batch.input_ids.mutable_data_ptr<int64_t>();
  int64_t* position_id = batch.position_ids.mutable_data_ptr<int64_t>();
  int64_t* target_position = batch.target_positions.mutable_data_ptr<int64_t>();
  int64_t* target_id = batch.target_ids.mutable_data_ptr<int64_t>();
  for (const Segment& segment : segments) {
    const int64_t begin = batch.cu_seqlens.back();
    const int64_t length = static_cast<int64_t>(segment.input_ids.size());
    input_id = std::copy(segment.input_ids.begin(), segment.input_ids.end(), input_id);
    std::iota(position_id, position_id + length, int64_t{0});
    position_id += length;
    for (int64_t t = 1; t < length; ++t) {
      const int32_t label = segment.labels[static_cast<std::size_t>(t)];
      if (label == kIgnoreIndex) continue;
      *target_position++ = begin + t - 1;
      *target_id++ = label;
    }
    batch.num_first_labels += length > 0 && segment.labels[0] != kIgnoreIndex;
    batch.cu_seqlens.push_back(begin + length);
    batch.rows.push_back(segment.id);
  }
  return batch;
}

}  // namespace sft::data
