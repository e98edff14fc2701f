#include "train/memory_need.h"

#include <gtest/gtest.h>

namespace sft::train {
namespace {

constexpr int64_t kMega = 1'000'000;

RankMemory rank_on(const std::string& host, const std::string& group, int64_t limit) {
  return {host, 500 * kMega, {{group, limit * kMega}, {"the machine", 4000 * kMega}}};
}

TEST(MemoryNeed, RanksInOneGroupShareItsLimit) {
  EXPECT_EQ(over_limit({rank_on("a", "job", 1000), rank_on("a", "job", 1000)}), "");
  EXPECT_EQ(over_limit({rank_on("a", "job", 999), rank_on("a", "job", 999)}),
            "job on a gives 2 ranks 999 MB, and 1000 MB are needed");
}

TEST(MemoryNeed, GroupsOfOneNameOnTwoHostsAreTwo) {
  EXPECT_EQ(over_limit({rank_on("a", "job", 600), rank_on("b", "job", 600)}), "");
  EXPECT_EQ(over_limit({rank_on("a", "job", 600), rank_on("b", "job", 400)}),
            "job on b gives 1 rank 400 MB, and 500 MB are needed");
}

TEST(MemoryNeed, GroupsOfTasksAreNotAddedUp) {
  EXPECT_EQ(over_limit({rank_on("a", "job/task_0", 600), rank_on("a", "job/task_1", 600)}), "");
}

TEST(MemoryNeed, TheMachineCountsTooAndAllThatFailIsSaid) {
  const std::vector<RankMemory> nine(9, rank_on("a", "job", 4000));
  EXPECT_EQ(over_limit(nine),
            "job on a gives 9 ranks 4000 MB, and 4500 MB are needed; the machine on a gives 9 ranks 4000 MB, "
            "and 4500 MB are needed");
}

TEST(MemoryNeed, AsText) {
  EXPECT_EQ(to_text({.parameters = 135 * kMega, .gradients = 135 * kMega, .optimizer = 270 * kMega}),
            "540 MB = parameters 135 + gradients 135 + optimizer 270");
  EXPECT_EQ(to_text({.parameters = kMega, .copy = kMega}),
            "2 MB = parameters 1 + gradients 0 + optimizer 0 + copy for checkpoints 1 (from the first on)");
}

}  // namespace
}  // namespace sft::train
