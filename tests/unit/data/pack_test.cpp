#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include "sft/data/batch.h"

namespace sft::data {
namespace pack_test {

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

// A packed row is the segments it is made of: what attends, positions and targets are those of separate rows.
TEST(Pack, SegmentsOfARowAreLaidOutAsRowsOfTheirOwn) {
  const TokenRow before = {
      .id = {.epoch = 2, .position = 7, .row = 3}, .input_ids = {4, 5}, .labels = {4, 5}};
  const TokenRow packed = {.id = {.epoch = 2, .position = 8, .row = 1},
                           .input_ids = {10, 11, 12, 20, 30, 31},
                           .labels = {kIgnoreIndex, 11, 12, kIgnoreIndex, kIgnoreIndex, 31},
                           .segment_lengths = {3, 1, 2}};
  const MicroBatch batch = pack({before, packed});
  const MicroBatch apart = pack({before,
                                 {.id = {}, .input_ids = {10, 11, 12}, .labels = {kIgnoreIndex, 11, 12}},
                                 {.id = {}, .input_ids = {20}, .labels = {kIgnoreIndex}},
                                 {.id = {}, .input_ids = {30, 31}, .labels = {kIgnoreIndex, 31}}});
  EXPECT_EQ(values(batch.input_ids), values(apart.input_ids));
  EXPECT_EQ(values(batch.position_ids), values(apart.position_ids));
  EXPECT_EQ(batch.cu_seqlens, apart.cu_seqlens);
  EXPECT_EQ(values(batch.target_positions), values(apart.target_positions));
  EXPECT_EQ(values(batch.target_ids), values(apart.target_ids));
  EXPECT_EQ(batch.num_first_labels, 1) << "that of the row that is not packed";
  EXPECT_EQ(batch.num_rows(), 2);
  ASSERT_EQ(batch.rows.size(), 4U);
  for (int64_t s = 0; s < 3; ++s) {
    const RowId& id = batch.rows[static_cast<std::size_t>(s + 1)];
    EXPECT_EQ(id.epoch, 2);
    EXPECT_EQ(id.position, 8);
    EXPECT_EQ(id.segment, s);
  }
}

TEST(Pack, OfNoRowsIsEmpty) {
  const MicroBatch batch = pack({});
  EXPECT_TRUE(batch.empty());
  EXPECT_EQ(batch.num_tokens(), 0);
  EXPECT_EQ(batch.num_targets(), 0);
  EXPECT_EQ(batch.cu_seqlens, Ids{0});
  EXPECT_TRUE(values(batch.input_ids).empty());
}

}  // namespace pack_test
}  // namespace sft::data
