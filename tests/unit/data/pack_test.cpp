#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include "sft/data/batch.h"

namespace sft::data {
namespace {

using Ids = std::vector<int64_t>;

Ids values(const at::Tensor& tensor) {
  EXPECT_EQ(tensor.scalar_type(), at::kLong);
  EXPECT_TRUE(tensor.is_contiguous() && tensor.device().is_cpu());
  const int64_t* data = tensor.const_data_ptr<int64_t>();
  return Ids(data, data + tensor.numel());
}

TEST(Pack, LaysRowsBehindOneAnotherAndShiftsLabels) {
  const std::vector<TokenRow> rows = {
      {.id = {.epoch = 1, .position = 4, .row = 40}, .input_ids = {5, 6, 7}, .labels = {5, 6, 7}},
      {.id = {.epoch = 1, .position = 5, .row = 2}, .input_ids = {8}, .labels = {8}},
      {.id = {.epoch = 1, .position = 6, .row = 9},
       .input_ids = {10, 11, 12, 13},
       .labels = {kIgnoreIndex, kIgnoreIndex, 12, 99}},
  };
  const MicroBatch batch = pack(rows);
  EXPECT_EQ(values(batch.input_ids), (Ids{5, 6, 7, 8, 10, 11, 12, 13}));
  EXPECT_EQ(values(batch.position_ids), (Ids{0, 1, 2, 0, 0, 1, 2, 3}));
  EXPECT_EQ(batch.cu_seqlens, (Ids{0, 3, 4, 8}));
  // Token t has a target where token t + 1 of the same row carries a label.
  EXPECT_EQ(values(batch.target_positions), (Ids{0, 1, 5, 6}));
  EXPECT_EQ(values(batch.target_ids), (Ids{6, 7, 12, 99}));
  EXPECT_EQ(batch.num_first_labels, 2);
  EXPECT_EQ(batch.num_tokens(), 8);
  EXPECT_EQ(batch.num_targets(), 4);
  ASSERT_EQ(batch.num_rows(), 3);
  EXPECT_EQ(batch.rows[0].row, 40);
  EXPECT_EQ(batch.rows[2].position, 6);
}

TEST(Pack, OfNoRowsIsEmpty) {
  const MicroBatch batch = pack({});
  EXPECT_TRUE(batch.empty());
  EXPECT_EQ(batch.num_tokens(), 0);
  EXPECT_EQ(batch.num_targets(), 0);
  EXPECT_EQ(batch.cu_seqlens, Ids{0});
  EXPECT_TRUE(values(batch.input_ids).empty());
}

}  // namespace
}  // namespace sft::data
