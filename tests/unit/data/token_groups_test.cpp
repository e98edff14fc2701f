#include "sft/data/token_groups.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <random>

#include "sft/data/loader.h"
#include "support/memory_dataset.h"

namespace sft::data {
namespace token_groups_test {

using Rows = std::vector<int64_t>;

// Rows named by position, of these lengths.
std::vector<Rows> grouped(const Rows& lengths, int64_t max_tokens) {
  Rows rows(lengths.size());
  std::iota(rows.begin(), rows.end(), int64_t{0});
  return group_by_tokens(
      rows, [&](int64_t row) { return lengths[static_cast<std::size_t>(row)]; }, max_tokens);
}

TEST(TokenGroups, FillsGroupsAndKeepsLongRowsAlone) {
  EXPECT_EQ(grouped({3, 7, 12, 5, 2}, 10), (std::vector<Rows>{{3, 4}, {0, 1}, {2}}));
  EXPECT_EQ(grouped({4, 4, 4}, 4), (std::vector<Rows>{{0}, {1}, {2}}));
  EXPECT_EQ(grouped({1, 2, 3}, 100), (std::vector<Rows>{{0, 1, 2}}));
  EXPECT_TRUE(grouped({}, 10).empty());
}

TEST(TokenGroups, NamesTheRowsItWasGivenInTheirOrder) {
  EXPECT_EQ(group_by_tokens(
                {30, 10, 20}, [](int64_t row) { return row; }, 50),
            (std::vector<Rows>{{10}, {30, 20}}));
}

TEST(TokenGroupsProperty, EveryRowOnceNoGroupOverfullAndFewGroups) {
  std::mt19937 random(5);
  for (int i = 0; i < 300; ++i) {
    const auto max_tokens = static_cast<int64_t>(1 + random() % 60);
    Rows lengths(random() % 40);
    for (int64_t& length : lengths) length = static_cast<int64_t>(1 + random() % 50);
    Rows seen;
    int64_t last = 0, tokens = 0;
    std::size_t alone = 0;
    const auto groups = grouped(lengths, max_tokens);
    for (const Rows& group : groups) {
      int64_t sum = 0;
      for (const int64_t row : group) sum += lengths[static_cast<std::size_t>(row)];
      EXPECT_TRUE(sum <= max_tokens || group.size() == 1);
      EXPECT_GE(sum, last) << "the fullest is last";
      last = sum;
      if (sum > max_tokens) {
        ++alone;
      } else {
        tokens += sum;
      }
      seen.insert(seen.end(), group.begin(), group.end());
    }
    std::ranges::sort(seen);
    Rows all(lengths.size());
    std::iota(all.begin(), all.end(), int64_t{0});
    EXPECT_EQ(seen, all);
    // No two groups fit into one, so that on the average they are more than half full.
    const auto packed = static_cast<int64_t>(groups.size() - alone);
    if (packed > 1) {
      EXPECT_GT(2 * tokens, max_tokens * packed);
    }
  }
}

// All ranks of a run.
class Ranks {
 public:
  Ranks(const test::MemoryDataset& dataset, LoaderOptions options) {
    options.prefetch_windows = 0;
    for (options.rank = 0; options.rank < options.layout.world_size; ++options.rank)
      loaders_.push_back(DataLoader::create(dataset, options));
  }
  std::vector<Window> next(const Cursor& cursor) {
    std::vector<Window> windows;
    for (const auto& loader : loaders_) windows.push_back(loader->next(cursor));
    return windows;
  }

 private:
  std::vector<std::unique_ptr<DataLoader>> loaders_;
};

constexpr int64_t kLongestRow = 3;  // of MemoryDataset

// (position in the epoch, row, segment) of what all ranks have in a window.
std::vector<std::array<int64_t, 3>> ids_of(const std::vector<Window>& ranks) {
  std::vector<std::array<int64_t, 3>> ids;
  for (const Window& window : ranks) {
    for (const MicroBatch& batch : window.micro_batches) {
      for (const RowId& id : batch.rows) ids.push_back({id.position, id.row, id.segment});
    }
  }
  std::ranges::sort(ids);
  return ids;
}

int64_t sum_of(const std::vector<Window>& ranks, int64_t Window::*count) {
  int64_t sum = 0;
  for (const Window& window : ranks) sum += window.*count;
  return sum;
}

// Cut by tokens, a window has the rows that it has otherwise, dealt so that no rank has more tokens than
// another by more than a row; the cursor goes the same way, and every rank has as many micro-batches.
TEST(TokenGroupsProperty, WindowsHoldTheSameRowsEvenlyDealt) {
  std::mt19937 random(9);
  for (int i = 0; i < 200; ++i) {
    const auto up_to = [&](int64_t most) {
      return 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(most));
    };
    const test::MemoryDataset dataset(up_to(60));  // rows of 1 to 3 tokens
    LoaderOptions options;
    options.layout = {.num_rows = dataset.size(),
                      .micro_batch_size = up_to(4),
                      .world_size = up_to(3),
                      .gradient_accumulation_steps = up_to(4)};
    options.strategy = i % 2 == 0 ? SamplingStrategy::kRandom : SamplingStrategy::kGroupByLength;
    LoaderOptions by_tokens = options;
    by_tokens.micro_batch_tokens = up_to(12);
    Ranks rows(dataset, options), tokens(dataset, by_tokens);
    for (Cursor cursor; cursor.epoch < 2;) {
      const auto expected = rows.next(cursor), found = tokens.next(cursor);
      EXPECT_EQ(ids_of(found), ids_of(expected));
      EXPECT_EQ(sum_of(found, &Window::num_tokens), sum_of(expected, &Window::num_tokens));
      EXPECT_EQ(sum_of(found, &Window::num_targets), sum_of(expected, &Window::num_targets));
      EXPECT_EQ(sum_of(found, &Window::num_rows), sum_of(expected, &Window::num_rows));
      const auto [least, most] = std::ranges::minmax(found, {}, &Window::num_tokens);
      EXPECT_LE(most.num_tokens - least.num_tokens, kLongestRow);
      for (std::size_t rank = 0; rank < found.size(); ++rank) {
        EXPECT_EQ(found[rank].global_rows, expected[rank].global_rows);
        EXPECT_EQ(found[rank].end, expected[rank].end);
        EXPECT_EQ(found[rank].micro_batches.size(), found[0].micro_batches.size());
        bool had_rows = false;
        for (const MicroBatch& batch : found[rank].micro_batches) {
          EXPECT_TRUE(batch.num_tokens() <= by_tokens.micro_batch_tokens || batch.num_rows() == 1);
          EXPECT_FALSE(had_rows && batch.empty()) << "an empty one behind one with rows";
          had_rows = had_rows || !batch.empty();
        }
      }
      EXPECT_TRUE(std::ranges::any_of(found, [](const Window& window) {
        return !window.micro_batches[0].empty();
      })) << "a micro-batch that no rank has rows for";
      cursor = found[0].end;
    }
  }
}

TEST(DealByTokens, LongestFirstToTheEmptiest) {
  const std::vector<int64_t> lengths = {5, 9, 1, 7, 2, 7};
  const auto length = [&](int64_t row) { return lengths[static_cast<std::size_t>(row)]; };
  using Parts = std::vector<std::vector<int64_t>>;
  // 9 | 7 | 7, then 5 and 2 to the sevens, 1 to the nine.
  EXPECT_EQ(deal_by_tokens({0, 1, 2, 3, 4, 5}, length, 3), (Parts{{1, 2}, {0, 3}, {4, 5}}));
  EXPECT_EQ(deal_by_tokens({4, 1}, length, 3), (Parts{{1}, {4}, {}}));
  EXPECT_EQ(deal_by_tokens({}, length, 2), (Parts{{}, {}}));
  EXPECT_EQ(deal_by_tokens({3, 1, 2}, length, 1), (Parts{{3, 1, 2}}));
}

}  // namespace token_groups_test
}  // namespace sft::data
