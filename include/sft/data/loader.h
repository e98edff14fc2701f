// Windows of micro-batches for one rank, read ahead by a background thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "sft/data/batch.h"
#include "sft/data/dataset.h"
#include "sft/data/sampler.h"

namespace sft::data {

// Where in the data a run is. Free of world size and micro-batch size.
struct Cursor {
  int64_t epoch = 0;
  int64_t position = 0;  // rows of this epoch's order consumed by all ranks together
  // group_by_length: the batch_rows that made this epoch's order. It holds until the epoch ends, also in a
  // run whose own are others. 0: this run's, micro_batch_size * gradient_accumulation_steps, as transformers
  // takes them.
  int64_t group_rows = 0;
  bool operator==(const Cursor&) const = default;
};

// One rank's part of one accumulation window. Every rank has the same number of micro-batches; some may be
// empty.
struct Window {
  std::vector<MicroBatch> micro_batches;
  Cursor begin, end;  // end of the last window of an epoch is {epoch + 1, 0}
  int64_t num_tokens = 0, num_targets = 0, num_rows = 0, num_first_labels = 0;  // of this rank
  // Rows of the file (of all ranks) in this window, in order: what a log names when a step goes wrong.
  std::vector<int64_t> global_rows;
};

struct LoaderOptions {
  BatchLayout layout;
  // A window's rows are dealt to the ranks by tokens, and on each grouped into micro-batches of at most this
  // many tokens (token_groups.h), in place of micro_batch_size rows in order. 0: not.
  int64_t micro_batch_tokens = 0;
  int64_t rank = 0;
  SamplingStrategy strategy = SamplingStrategy::kRandom;
  uint64_t seed = 42;            // epoch e is permuted by seed + e
  int64_t prefetch_windows = 2;  // windows read ahead; 0: next() reads
};

// A place in a window, and the row that fills it.
struct Slot {
  int64_t rank = 0, micro_step = 0, slot = 0;
  int64_t epoch = 0, position = 0;  // in the epoch's order
  int64_t index = 0;                // of the usable row: TokenDataset::read(), row_numbers()
};

// Local. The slots of all ranks in the window that starts at `cursor`, without the empty ones: by micro-step,
// by rank, by slot, which is the order of Window::global_rows. Of options, layout, strategy and seed are
// used. Errors as DataLoader::create() and next().
std::vector<Slot> window_slots(const TokenDataset& dataset, const LoaderOptions& options,
                               const Cursor& cursor);

// All calls Local.
class DataLoader {
 public:
  virtual ~DataLoader() = default;
  // The dataset must outlive the loader. layout.num_rows is dataset.size().
  // Error kConfig: layout or rank out of range, or drop_last leaves an epoch without a micro-batch.
  static std::unique_ptr<DataLoader> create(const TokenDataset& dataset, const LoaderOptions& options);

  // The window that starts at `cursor`: its micro-steps are counted from there, so any position of an epoch
  // will do and a run that resumes with another layout goes on with the next row. A cursor with too few rows
  // behind it for one micro-step (drop_last) means the next epoch, where `begin` then lies. Error
  // kInvalidData: position outside the epoch. Sequential calls are served from read-ahead; a jump restarts
  // it. Errors of the reading thread are thrown here.
  virtual Window next(const Cursor& cursor) = 0;
  // The cursor after that window, without reading it.
  virtual Cursor after(const Cursor& cursor) const = 0;
};

}  // namespace sft::data
