#include "sft/data/sampler.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "data/random_draw.h"
#include "sft/base/file.h"

namespace sft::data {
namespace sampler_test {

using nlohmann::json;
using Order = std::vector<int64_t>;

const json& golden() {
  static const json orders = json::parse(base::read_text(SFT_SOURCE_DIR "/tests/golden/data_order.json"));
  return orders;
}

TEST(TorchRandperm, EqualsTorch) {
  for (const json& expected : golden().at("torch")) {
    EXPECT_EQ(torch_randperm(expected["n"], expected["seed"]), expected["order"].get<Order>())
        << expected["n"] << " rows, seed " << expected["seed"];
  }
}

// The published values of reference runs, independent of the golden file.
TEST(TorchRandperm, EqualsKnownValues) {
  EXPECT_EQ(torch_randperm(10, 0), (Order{4, 1, 7, 5, 3, 9, 0, 8, 6, 2}));
  EXPECT_EQ(torch_randperm(10, 42), (Order{2, 6, 1, 8, 4, 5, 0, 9, 3, 7}));
}

// What torch.randperm does from kTorchWideRows on; there is no room here for that many.
TEST(TorchRandperm, WideBranchFollowsTheFormula) {
  for (const json& expected : golden().at("torch_wide")) {
    EXPECT_EQ(torch_randperm_wide(expected["n"], expected["seed"]), expected["order"].get<Order>())
        << expected["n"] << " rows, seed " << expected["seed"];
  }
}

TEST(NumpyPermutation, EqualsNumpyAndDatasets) {
  for (const json& expected : golden().at("numpy")) {
    EXPECT_EQ(numpy_permutation(expected["n"], expected["seed"]), expected["order"].get<Order>())
        << expected["n"] << " rows, seed " << expected["seed"];
  }
}

TEST(GroupByLength, EqualsTransformers) {
  for (const json& expected : golden().at("grouped")) {
    const auto length = [](int64_t i) { return 1 + 37 * i % 101; };
    EXPECT_EQ(
        group_by_length(torch_randperm(expected["n"], expected["seed"]), length, expected["batch_rows"]),
        expected["order"].get<Order>())
        << expected["n"] << " rows, batches of " << expected["batch_rows"];
  }
}

TEST(Permutations, OfNothingAreEmpty) {
  EXPECT_TRUE(group_by_length(
                  {}, [](int64_t) { return 1; }, 4)
                  .empty());
  EXPECT_TRUE(torch_randperm(0, 1).empty());
  EXPECT_TRUE(numpy_permutation(0, 1).empty());
}

BatchLayout layout_of(const json& expected, bool wrap_around) {
  BatchLayout layout;
  layout.num_rows = expected["n"];
  layout.micro_batch_size = expected["B"];
  layout.world_size = expected["W"];
  layout.drop_last = expected["drop_last"];
  layout.wrap_around = wrap_around;
  return layout;
}

TEST(BatchLayout, WrappedAroundEqualsAccelerate) {
  for (const json& expected : golden().at("shards")) {
    SCOPED_TRACE(expected.dump());
    const BatchLayout layout = layout_of(expected, true);
    for (int64_t rank = 0; rank < layout.world_size; ++rank) {
      std::vector<Order> batches;
      for (int64_t s = 0; s < layout.micro_steps_per_epoch(); ++s) {
        batches.push_back(micro_batch_positions(layout, s, rank));
      }
      EXPECT_EQ(batches, expected["ranks"][static_cast<std::size_t>(rank)].get<std::vector<Order>>());
      EXPECT_TRUE(micro_batch_positions(layout, layout.micro_steps_per_epoch(), rank).empty());
    }
  }
}

TEST(BatchLayout, NotWrappedAroundDealsEveryPositionOnce) {
  for (const json& expected : golden().at("shards")) {
    if (expected["drop_last"]) continue;
    SCOPED_TRACE(expected.dump());
    const BatchLayout layout = layout_of(expected, false);
    Order dealt;
    for (int64_t s = 0; s < layout.micro_steps_per_epoch(); ++s) {
      for (int64_t rank = 0; rank < layout.world_size; ++rank) {
        for (const int64_t k : micro_batch_positions(layout, s, rank)) dealt.push_back(k);
      }
    }
    Order all(static_cast<std::size_t>(layout.num_rows));
    std::iota(all.begin(), all.end(), int64_t{0});
    EXPECT_EQ(dealt, all);
  }
}

TEST(BatchLayout, CountsSteps) {
  BatchLayout layout{
      .num_rows = 13, .micro_batch_size = 2, .world_size = 2, .gradient_accumulation_steps = 3};
  EXPECT_EQ(layout.global_batch_size(), 12);
  EXPECT_EQ(layout.micro_steps_per_epoch(), 4);
  EXPECT_EQ(layout.steps_per_epoch(), 2);
  layout.drop_last = true;
  EXPECT_EQ(layout.micro_steps_per_epoch(), 3);
  EXPECT_EQ(layout.steps_per_epoch(), 1);
}

}  // namespace sampler_test
}  // namespace sft::data
