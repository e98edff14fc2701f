// A data set in memory, whose rows tell their number: row r is `length(r)` times the id r.
#pragma once

#include <atomic>
#include <cstdint>

#include "sft/base/error.h"
#include "sft/data/dataset.h"

namespace sft::test {

class MemoryDataset final : public data::TokenDataset {
 public:
  explicit MemoryDataset(int64_t num_rows) { info_.num_rows = num_rows; }

  const data::DatasetInfo& info() const override { return info_; }
  int64_t size() const override { return info_.num_rows; }
  int64_t length(int64_t index) const override { return 1 + index % 3; }
  int64_t longest_sequence() const override { return 3; }
  std::vector<int64_t> row_numbers(int64_t index) const override { return {index}; }
  int64_t num_rows_truncated() const override { return 0; }
  int64_t num_tokens_lost() const override { return 0; }
  int64_t num_rows_dropped() const override { return 0; }

  data::TokenRow read(int64_t index) const override {
    ++num_reads;
    if (index == broken_row) base::fail(base::ExitCode::kInvalidData, "row {} is broken", index);
    const std::vector<int32_t> ids(static_cast<std::size_t>(length(index)), static_cast<int32_t>(index));
    return {.id = {.row = index}, .input_ids = ids, .labels = ids};
  }

  std::atomic<int64_t> broken_row = -1;
  mutable std::atomic<int64_t> num_reads = 0;

 private:
  data::DatasetInfo info_;
};

}  // namespace sft::test
