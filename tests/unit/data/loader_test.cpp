#include "sft/data/loader.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <thread>

#include "sft/base/error.h"
#include "support/memory_dataset.h"

namespace sft::data {
namespace loader_test {

using test::MemoryDataset;
using Rows = std::vector<int64_t>;

// Every rank's loader of one run.
class Ranks {
 public:
  Ranks(const MemoryDataset& dataset, LoaderOptions options) : options_(options) {
    for (options.rank = 0; options.rank < options.layout.world_size; ++options.rank) {
      loaders_.push_back(DataLoader::create(dataset, options));
    }
  }

  // The windows of all ranks from this cursor; checks what must be equal on all of them.
  std::vector<Window> next(const Cursor& cursor) {
    std::vector<Window> windows;
    for (const auto& loader : loaders_) {
      windows.push_back(loader->next(cursor));
      const Window& window = windows.back();
      EXPECT_EQ(window.begin, windows[0].begin);
      EXPECT_EQ(window.end, windows[0].end);
      EXPECT_EQ(window.micro_batches.size(), windows[0].micro_batches.size());
      EXPECT_EQ(window.global_rows, windows[0].global_rows);
      EXPECT_EQ(loader->after(cursor), window.end);
      check_counts(window);
    }
    return windows;
  }

  const BatchLayout& layout() const { return options_.layout; }

 private:
  static void check_counts(const Window& window) {
    int64_t tokens = 0, targets = 0, rows = 0, first_labels = 0;
    for (const MicroBatch& batch : window.micro_batches) {
      tokens += batch.num_tokens();
      targets += batch.num_targets();
      rows += batch.num_rows();
      first_labels += batch.num_first_labels;
    }
    EXPECT_EQ(window.num_tokens, tokens);
    EXPECT_EQ(window.num_targets, targets);
    EXPECT_EQ(window.num_rows, rows);
    EXPECT_EQ(window.num_first_labels, first_labels);
  }

  LoaderOptions options_;
  std::vector<std::unique_ptr<DataLoader>> loaders_;
};

// Rows that the ranks consume in a window, micro-step by micro-step and rank by rank.
Rows consumed(const std::vector<Window>& windows) {
  Rows rows;
  for (std::size_t s = 0; s < windows[0].micro_batches.size(); ++s) {
    for (const Window& window : windows) {
      for (const RowId& id : window.micro_batches[s].rows) rows.push_back(id.row);
    }
  }
  return rows;
}

Rows slice(const Rows& order, int64_t first, int64_t count) {
  const int64_t n = static_cast<int64_t>(order.size());
  return Rows(order.begin() + std::min(first, n), order.begin() + std::min(first + count, n));
}

struct Case {
  int64_t n, B, W, gas;
  uint64_t seed;
};

LoaderOptions options_of(const Case& c) {
  LoaderOptions options;
  options.layout = {
      .num_rows = c.n, .micro_batch_size = c.B, .world_size = c.W, .gradient_accumulation_steps = c.gas};
  options.seed = c.seed;
  options.prefetch_windows = static_cast<int64_t>(c.seed % 3);
  return options;
}

class RandomCases {
 public:
  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(generator_);
  }
  Case next() {
    return {between(2, 60), between(1, 4), between(1, 4), between(1, 4),
            static_cast<uint64_t>(between(0, 1000))};
  }

 private:
  std::mt19937 generator_{20240607};
};

std::string describe(const Case& c) {
  return fmt::format("n {} B {} W {} GAS {} seed {}", c.n, c.B, c.W, c.gas, c.seed);
}

// What inspect-step lists is what the ranks read: each slot's row in the micro-batch of its rank, and nothing
// else.
TEST(LoaderProperty, SlotsAreWhatTheRanksRead) {
  RandomCases cases;
  for (int i = 0; i < 200; ++i) {
    const Case c = cases.next();
    SCOPED_TRACE(describe(c));
    const MemoryDataset dataset(c.n);
    LoaderOptions options = options_of(c);
    options.strategy = static_cast<SamplingStrategy>(i % 3);
    options.layout.wrap_around = i % 2 == 0;
    options.layout.drop_last = i % 5 == 0 && c.n >= c.B * c.W;
    Ranks run(dataset, options);
    Cursor cursor;
    for (int64_t step = 0; step < 5; ++step) {
      const std::vector<Slot> slots = window_slots(dataset, options, cursor);
      const auto windows = run.next(cursor);
      std::vector<int64_t> read(static_cast<std::size_t>(c.W), 0);
      Rows rows;
      for (const Slot& slot : slots) {
        const Window& window = windows[static_cast<std::size_t>(slot.rank)];
        const RowId& id = window.micro_batches.at(static_cast<std::size_t>(slot.micro_step))
                              .rows.at(static_cast<std::size_t>(slot.slot));
        EXPECT_EQ(id.row, slot.index);
        EXPECT_EQ(id.position, slot.position);
        EXPECT_EQ(id.epoch, slot.epoch);
        ++read[static_cast<std::size_t>(slot.rank)];
        rows.push_back(slot.index);
      }
      for (std::size_t rank = 0; rank < windows.size(); ++rank) EXPECT_EQ(read[rank], windows[rank].num_rows);
      EXPECT_EQ(rows, windows[0].global_rows);
      cursor = windows[0].end;
    }
  }
}

// Issue: every epoch's rows, over all ranks, are each row exactly once, and a window is perm[k0, k0 + B * W *
// GAS).
TEST(LoaderProperty, EveryEpochHasEachRowOnce) {
  RandomCases cases;
  for (int i = 0; i < 300; ++i) {
    const Case c = cases.next();
    SCOPED_TRACE(describe(c));
    const MemoryDataset dataset(c.n);
    Ranks run(dataset, options_of(c));
    Cursor cursor;
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      const Rows order = torch_randperm(c.n, c.seed + static_cast<uint64_t>(epoch));
      int64_t steps = 0;
      Rows all;
      for (; cursor.epoch == epoch; ++steps) {
        const auto windows = run.next(cursor);
        const Rows rows = consumed(windows);
        EXPECT_EQ(rows, slice(order, cursor.position, run.layout().global_batch_size()));
        EXPECT_EQ(rows, windows[0].global_rows);
        all.insert(all.end(), rows.begin(), rows.end());
        cursor = windows[0].end;
      }
      EXPECT_EQ(cursor, (Cursor{epoch + 1, 0}));
      EXPECT_EQ(steps, run.layout().steps_per_epoch());
      EXPECT_EQ(all, order);
    }
  }
}

TEST(LoaderProperty, AnotherLayoutOfTheSameGlobalBatchGoesOnWithTheNextRow) {
  RandomCases cases;
  for (int i = 0; i < 300; ++i) {
    Case c = cases.next();
    const MemoryDataset dataset(c.n);
    Case other = c;
    other.W = cases.between(1, c.B * c.W * c.gas);
    while ((c.B * c.W * c.gas) % other.W != 0) --other.W;
    other.B = cases.between(1, c.B * c.W * c.gas / other.W);
    while ((c.B * c.W * c.gas / other.W) % other.B != 0) --other.B;
    other.gas = c.B * c.W * c.gas / other.W / other.B;
    SCOPED_TRACE(describe(c) + " then " + describe(other));

    Ranks before(dataset, options_of(c)), after(dataset, options_of(other));
    const int64_t steps = 2 * before.layout().steps_per_epoch(), change = cases.between(1, steps - 1);
    Cursor cursor;
    Rows all;
    for (int64_t step = 0; step < steps; ++step) {
      const auto windows = (step < change ? before : after).next(cursor);
      const Rows rows = consumed(windows);
      all.insert(all.end(), rows.begin(), rows.end());
      cursor = windows[0].end;
    }
    Rows expected = torch_randperm(c.n, c.seed);
    const Rows second = torch_randperm(c.n, c.seed + 1);
    expected.insert(expected.end(), second.begin(), second.end());
    EXPECT_EQ(all, expected);
    EXPECT_EQ(cursor, (Cursor{2, 0}));
  }
}

TEST(Loader, GoesOnFromAnyPosition) {
  const Case c{20, 2, 2, 2, 7};
  const MemoryDataset dataset(c.n);
  Ranks run(dataset, options_of(c));
  const Rows order = torch_randperm(c.n, c.seed + 1);
  const auto windows = run.next({1, 5});
  EXPECT_EQ(consumed(windows), slice(order, 5, 8));
  EXPECT_EQ(windows[0].end, (Cursor{1, 13}));
  EXPECT_EQ(consumed(run.next({1, 13})), slice(order, 13, 7));
}

TEST(Loader, NamesEpochAndPositionOfEveryRow) {
  const Case c{5, 1, 2, 2, 3};
  const MemoryDataset dataset(c.n);
  Ranks run(dataset, options_of(c));
  const auto windows = run.next({2, 4});
  const Rows order = torch_randperm(c.n, 5);
  const RowId& id = windows[0].micro_batches.at(0).rows.at(0);
  EXPECT_EQ(id.epoch, 2);
  EXPECT_EQ(id.position, 4);
  EXPECT_EQ(id.row, order[4]);
  EXPECT_TRUE(windows[1].micro_batches.at(0).empty()) << "a rank without rows still has the micro-step";
}

TEST(Loader, DropLastLeavesOutWhatFillsNoMicroStep) {
  const Case c{11, 2, 2, 2, 1};
  const MemoryDataset dataset(c.n);
  LoaderOptions options = options_of(c);
  options.layout.drop_last = true;
  Ranks run(dataset, options);
  const auto first = run.next({0, 0});
  EXPECT_EQ(first[0].end, (Cursor{1, 0}));
  EXPECT_EQ(consumed(first), slice(torch_randperm(c.n, 1), 0, 8));
  // Another layout left this cursor, with too few rows behind it here.
  EXPECT_EQ(run.next({0, 9})[0].begin, (Cursor{1, 0}));
}

TEST(Loader, WrapsAroundAsAccelerate) {
  const Case c{13, 2, 3, 1, 42};
  const MemoryDataset dataset(c.n);
  LoaderOptions options = options_of(c);
  options.layout.wrap_around = true;
  Ranks run(dataset, options);
  // Made by running accelerate's BatchSamplerShard: rank by rank, micro-step by micro-step.
  const std::vector<std::vector<Rows>> expected = {
      {{5, 12}, {2, 9}, {0, 5}}, {{11, 7}, {8, 10}, {12, 11}}, {{4, 1}, {6, 3}, {7, 4}}};
  Cursor cursor;
  for (std::size_t s = 0; s < 3; ++s) {
    const auto windows = run.next(cursor);
    for (std::size_t rank = 0; rank < 3; ++rank) {
      Rows rows;
      for (const RowId& id : windows[rank].micro_batches.at(0).rows) rows.push_back(id.row);
      EXPECT_EQ(rows, expected[rank][s]) << "rank " << rank << ", micro-step " << s;
    }
    cursor = windows[0].end;
  }
  EXPECT_EQ(cursor, (Cursor{1, 0}));
}

TEST(Loader, SequentialPassEndsWithTheEpoch) {
  const MemoryDataset dataset(7);
  LoaderOptions options = options_of({7, 2, 2, 1, 42});
  options.strategy = SamplingStrategy::kSequential;
  Ranks run(dataset, options);
  Rows all;
  Cursor cursor;
  while (cursor.epoch == 0) {
    const auto windows = run.next(cursor);
    const Rows rows = consumed(windows);
    all.insert(all.end(), rows.begin(), rows.end());
    cursor = windows[0].end;
  }
  EXPECT_EQ(all, (Rows{0, 1, 2, 3, 4, 5, 6}));
}

// The order depends on the batch; a run that goes on with another one keeps it until the epoch ends.
TEST(Loader, GroupsByLengthAsTheEpochBegan) {
  const Case c{50, 2, 2, 4, 11}, other{50, 4, 4, 1, 11};
  const MemoryDataset dataset(c.n);
  const auto grouped = [&](int64_t epoch, int64_t batch_rows) {
    return group_by_length(
        torch_randperm(c.n, c.seed + static_cast<uint64_t>(epoch)),
        [&](int64_t i) { return dataset.length(i); }, batch_rows);
  };
  LoaderOptions options = options_of(c), other_options = options_of(other);
  options.strategy = other_options.strategy = SamplingStrategy::kGroupByLength;
  Ranks before(dataset, options), after(dataset, other_options);
  ASSERT_NE(grouped(0, 8), grouped(0, 4));

  auto windows = before.next({0, 0});
  EXPECT_EQ(consumed(windows), slice(grouped(0, 8), 0, 16));
  EXPECT_EQ(windows[0].end, (Cursor{0, 16, 8}));
  Rows rest;
  Cursor cursor = windows[0].end;
  while (cursor.epoch == 0) {
    windows = after.next(cursor);
    const Rows rows = consumed(windows);
    rest.insert(rest.end(), rows.begin(), rows.end());
    cursor = windows[0].end;
  }
  EXPECT_EQ(rest, slice(grouped(0, 8), 16, 50));
  EXPECT_EQ(cursor, (Cursor{1, 0, 4}));
  EXPECT_EQ(consumed(after.next(cursor)), slice(grouped(1, 4), 0, 16));
}

TEST(Loader, ReadsAheadOnlySoFar) {
  const MemoryDataset dataset(1000);
  LoaderOptions options = options_of({1000, 5, 1, 2, 42});
  options.prefetch_windows = 3;
  const auto loader = DataLoader::create(dataset, options);
  loader->next({0, 0});
  // One window was taken, at most three lie ready and none is in the making beyond them.
  for (int i = 0; i < 2000 && dataset.num_reads < 40; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(dataset.num_reads, 40);
}

TEST(Loader, ThrowsTheReadersErrorAndGoesOn) {
  MemoryDataset dataset(10);
  for (const int64_t prefetch : {0, 2}) {
    LoaderOptions options = options_of({10, 2, 1, 1, 42});
    options.strategy = SamplingStrategy::kSequential;
    options.prefetch_windows = prefetch;
    const auto loader = DataLoader::create(dataset, options);
    dataset.broken_row = 5;
    EXPECT_EQ(loader->next({0, 0}).global_rows, (Rows{0, 1}));
    EXPECT_EQ(loader->next({0, 2}).global_rows, (Rows{2, 3}));
    for (int attempt = 0; attempt < 2; ++attempt) {
      try {
        loader->next({0, 4});
        ADD_FAILURE() << "no error";
      } catch (const base::Error& error) {
        EXPECT_EQ(error.code(), base::ExitCode::kInvalidData);
      }
    }
    EXPECT_EQ(loader->next({0, 6}).global_rows, (Rows{6, 7}));
    dataset.broken_row = -1;
    EXPECT_EQ(loader->next({0, 4}).global_rows, (Rows{4, 5}));
  }
}

TEST(Loader, JumpsWhileItReadsAhead) {
  const MemoryDataset dataset(50);
  LoaderOptions options = options_of({50, 3, 1, 2, 42});
  options.prefetch_windows = 4;
  const auto loader = DataLoader::create(dataset, options);
  RandomCases random;
  for (int i = 0; i < 500; ++i) {
    const Cursor cursor{random.between(0, 2), random.between(0, 49)};
    const Rows order = torch_randperm(50, 42 + static_cast<uint64_t>(cursor.epoch));
    ASSERT_EQ(loader->next(cursor).global_rows, slice(order, cursor.position, 6));
  }
}

TEST(Loader, RefusesWhatCannotWork) {
  const MemoryDataset dataset(3);
  const auto code_of = [&](LoaderOptions options) {
    try {
      DataLoader::create(dataset, options);
    } catch (const base::Error& error) {
      return error.code();
    }
    return base::ExitCode::kDone;
  };
  LoaderOptions options = options_of({3, 2, 2, 1, 1});
  EXPECT_EQ(code_of(options), base::ExitCode::kDone);
  options.layout.drop_last = true;
  EXPECT_EQ(code_of(options), base::ExitCode::kConfig);
  options.layout = {.num_rows = 3, .micro_batch_size = INT64_MAX / 2, .world_size = 3};
  EXPECT_EQ(code_of(options), base::ExitCode::kConfig);

  const auto loader = DataLoader::create(dataset, options_of({3, 1, 1, 1, 1}));
  for (const Cursor& cursor : {Cursor{0, 3}, Cursor{0, -1}, Cursor{-1, 0}}) {
    EXPECT_THROW(loader->next(cursor), base::Error) << cursor.epoch << " " << cursor.position;
  }
}

}  // namespace loader_test
}  // namespace sft::data
