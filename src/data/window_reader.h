// Windows of one rank, read when asked for.
#pragma once

#include <cstdint>
#include <vector>

#include "sft/data/loader.h"

namespace sft::data {

// The rows of an epoch that lie behind a cursor, cut into micro-steps and windows. Pure arithmetic.
class EpochCut {
 public:
  // group_rows: Cursor::group_rows of epochs that begin in this run; 0 unless rows are grouped by length.
  EpochCut(const BatchLayout& layout, int64_t group_rows) : layout_(layout), group_rows_(group_rows) {}

  // The cursor of the window that starts at `cursor`: itself, or the next epoch when too few rows are left
  // for a micro-step. Error kInvalidData when it is not inside an epoch.
  Cursor begin(const Cursor& cursor) const;
  // The cursor after the window that starts at `begin`.
  Cursor end(const Cursor& begin) const;
  // Micro-steps of that window, at least 1.
  int64_t micro_steps(const Cursor& begin) const;

 private:
  BatchLayout layout_;
  int64_t group_rows_;
};

// Used by one thread at a time.
class WindowReader {
 public:
  WindowReader(const TokenDataset& dataset, const LoaderOptions& options);
  // window.begin is cut().begin(cursor).
  Window read(const Cursor& cursor);
  std::vector<Slot> slots(const Cursor& cursor);  // as window_slots()
  const EpochCut& cut() const { return cut_; }

 private:
  using Positions = std::vector<int64_t>;
  Positions positions(const Cursor& begin, int64_t micro_step, int64_t rank) const;
  // The rows of each of this rank's micro-batches. As many on every rank: empty ones stand at the front, so
  // that a rank's last one, whose backward hides the reductions, is its fullest.
  std::vector<Positions> micro_batches(const Cursor& begin, int64_t micro_steps) const;
  std::vector<Positions> micro_batches_by_tokens(const Cursor& begin, int64_t micro_steps) const;
  int64_t index_at(int64_t position) const;  // row at this position of the current epoch's order
  void enter_epoch(const Cursor& begin);
  MicroBatch read_micro_batch(const Cursor& begin, const Positions& rows_at) const;

  const TokenDataset& dataset_;
  LoaderOptions options_;
  EpochCut cut_;
  std::vector<int64_t> order_;   // empty: the data set's
  Cursor ordered_{.epoch = -1};  // the epoch that order_ is of, and its group_rows
};

}  // namespace sft::data
