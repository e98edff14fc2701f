#include "data/window_reader.h"

#include <algorithm>
#include <utility>

#include "sft/base/checked.h"
#include "sft/base/error.h"
#include "sft/data/token_groups.h"

namespace sft::data {

using base::ExitCode;
using base::fail;

Cursor EpochCut::begin(const Cursor& cursor) const {
  if (cursor.epoch < 0 || cursor.position < 0 || cursor.position >= layout_.num_rows) {
    fail(ExitCode::kInvalidData, "there is no row at position {} of epoch {}: an epoch has {} rows",
         cursor.position, cursor.epoch, layout_.num_rows);
  }
  if (layout_.micro_steps_left(cursor.position) == 0) return {cursor.epoch + 1, 0, group_rows_};
  return {cursor.epoch, cursor.position, cursor.group_rows > 0 ? cursor.group_rows : group_rows_};
}

Cursor EpochCut::end(const Cursor& begin) const {
  const int64_t rest = layout_.micro_steps_left(begin.position) - layout_.gradient_accumulation_steps;
  if (rest <= 0) return {begin.epoch + 1, 0, group_rows_};
  return {begin.epoch, begin.position + layout_.global_batch_size(), begin.group_rows};
}

int64_t EpochCut::micro_steps(const Cursor& begin) const {
  return std::min(layout_.micro_steps_left(begin.position), layout_.gradient_accumulation_steps);
}

WindowReader::WindowReader(const TokenDataset& dataset, const LoaderOptions& options)
    : dataset_(dataset),
      options_(options),
      cut_(options.layout, options.strategy == SamplingStrategy::kGroupByLength
                               ? options.layout.micro_batch_size * options.layout.gradient_accumulation_steps
                               : 0) {}

Window WindowReader::read(const Cursor& cursor) {
  Window window;
  window.begin = cut_.begin(cursor);
  window.end = cut_.end(window.begin);
  for (const Slot& slot : slots(window.begin)) {
    const std::vector<int64_t> numbers = dataset_.row_numbers(slot.index);
    window.global_rows.insert(window.global_rows.end(), numbers.begin(), numbers.end());
  }
  const int64_t micro_steps = cut_.micro_steps(window.begin);
  for (const Positions& rows_at : micro_batches(window.begin, micro_steps)) {
    MicroBatch batch = read_micro_batch(window.begin, rows_at);
    window.num_tokens += batch.num_tokens();
    window.num_targets += batch.num_targets();
    window.num_rows += batch.num_rows();
    window.num_first_labels += batch.num_first_labels;
    window.micro_batches.push_back(std::move(batch));
  }
  return window;
}

std::vector<Slot> WindowReader::slots(const Cursor& cursor) {
  const Cursor begin = cut_.begin(cursor);
  enter_epoch(begin);
  std::vector<Slot> result;
  for (int64_t s = 0; s < cut_.micro_steps(begin); ++s) {
    for (int64_t rank = 0; rank < options_.layout.world_size; ++rank) {
      int64_t slot = 0;
      for (const int64_t position : positions(begin, s, rank)) {
        result.push_back({.rank = rank,
                          .micro_step = s,
                          .slot = slot++,
                          .epoch = begin.epoch,
                          .position = position,
                          .index = index_at(position)});
      }
    }
  }
  return result;
}

std::vector<WindowReader::Positions> WindowReader::micro_batches(const Cursor& begin,
                                                                 int64_t micro_steps) const {
  if (options_.micro_batch_tokens > 0) return micro_batches_by_tokens(begin, micro_steps);
  std::vector<Positions> mine;
  for (int64_t s = 0; s < micro_steps; ++s) mine.push_back(positions(begin, s, options_.rank));
  return mine;
}

std::vector<WindowReader::Positions> WindowReader::micro_batches_by_tokens(const Cursor& begin,
                                                                           int64_t micro_steps) const {
  Positions all;
  for (int64_t s = 0; s < micro_steps; ++s) {
    for (int64_t rank = 0; rank < options_.layout.world_size; ++rank) {
      const Positions more = positions(begin, s, rank);
      all.insert(all.end(), more.begin(), more.end());
    }
  }
  const auto length = [&](int64_t position) { return dataset_.length(index_at(position)); };
  const std::vector<Positions> parts = deal_by_tokens(all, length, options_.layout.world_size);
  std::vector<Positions> mine;
  std::size_t most = 1;
  for (std::size_t rank = 0; rank < parts.size(); ++rank) {
    std::vector<Positions> groups = group_by_tokens(parts[rank], length, options_.micro_batch_tokens);
    most = std::max(most, groups.size());
    if (static_cast<int64_t>(rank) == options_.rank) mine = std::move(groups);
  }
  mine.insert(mine.begin(), most - mine.size(), Positions());
  return mine;
}

MicroBatch WindowReader::read_micro_batch(const Cursor& begin, const Positions& rows_at) const {
  std::vector<TokenRow> rows;
  for (const int64_t position : rows_at) {
    TokenRow row = dataset_.read(index_at(position));
    row.id.epoch = begin.epoch;
    row.id.position = position;
    rows.push_back(std::move(row));
  }
  return pack(rows);
}

WindowReader::Positions WindowReader::positions(const Cursor& begin, int64_t micro_step, int64_t rank) const {
  return micro_batch_positions(options_.layout, micro_step, rank, begin.position);
}

int64_t WindowReader::index_at(int64_t position) const {
  return order_.empty() ? position : order_[static_cast<std::size_t>(position)];
}

void WindowReader::enter_epoch(const Cursor& begin) {
  const bool same = begin.epoch == ordered_.epoch && begin.group_rows == ordered_.group_rows;
  if (options_.strategy == SamplingStrategy::kSequential || same) return;
  order_ = torch_randperm(options_.layout.num_rows, options_.seed + static_cast<uint64_t>(begin.epoch));
  if (options_.strategy == SamplingStrategy::kGroupByLength) {
    const auto length = [&](int64_t index) { return dataset_.length(index); };
    order_ = group_by_length(std::move(order_), length, begin.group_rows);
  }
  ordered_ = begin;
}

}  // namespace sft::data
