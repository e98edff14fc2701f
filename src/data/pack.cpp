#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <numeric>

#include "sft/data/batch.h"

namespace sft::data {
namespace {

struct Sizes {
  int64_t tokens = 0, targets = 0;
};

Sizes count(const std::vector<TokenRow>& rows) {
  Sizes sizes;
  for (const TokenRow& row : rows) {
    sizes.tokens += static_cast<int64_t>(row.input_ids.size());
    for (std::size_t t = 1; t < row.labels.size(); ++t) sizes.targets += row.labels[t] != kIgnoreIndex;
  }
  return sizes;
}

at::Tensor new_ids(int64_t count) {
  return at::empty({count}, at::TensorOptions().dtype(at::kLong));
}

}  // namespace

MicroBatch pack(const std::vector<TokenRow>& rows) {
  const Sizes sizes = count(rows);
  MicroBatch batch;
  batch.input_ids = new_ids(sizes.tokens);
  batch.position_ids = new_ids(sizes.tokens);
  batch.target_positions = new_ids(sizes.targets);
  batch.target_ids = new_ids(sizes.targets);
  batch.cu_seqlens.reserve(rows.size() + 1);
  batch.cu_seqlens.push_back(0);
  batch.rows.reserve(rows.size());

  int64_t* input_id = batch.input_ids.mutable_data_ptr<int64_t>();
  int64_t* position_id = batch.position_ids.mutable_data_ptr<int64_t>();
  int64_t* target_position = batch.target_positions.mutable_data_ptr<int64_t>();
  int64_t* target_id = batch.target_ids.mutable_data_ptr<int64_t>();
  for (const TokenRow& row : rows) {
    const int64_t begin = batch.cu_seqlens.back();
    const int64_t length = static_cast<int64_t>(row.input_ids.size());
    input_id = std::copy(row.input_ids.begin(), row.input_ids.end(), input_id);
    std::iota(position_id, position_id + length, int64_t{0});
    position_id += length;
    for (int64_t t = 1; t < length; ++t) {
      const int32_t label = row.labels[static_cast<std::size_t>(t)];
      if (label == kIgnoreIndex) continue;
      *target_position++ = begin + t - 1;
      *target_id++ = label;
    }
    batch.num_first_labels += length > 0 && row.labels[0] != kIgnoreIndex;
    batch.cu_seqlens.push_back(begin + length);
    batch.rows.push_back(row.id);
  }
  return batch;
}

}  // namespace sft::data
