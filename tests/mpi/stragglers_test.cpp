// Times of all ranks, gathered, and the same verdict on each of them. The times are made up: no clock is
// asked.
#include "train/stragglers.h"

#include <gtest/gtest.h>

#include "support/mpi_test.h"

namespace sft::train {
namespace {

using testing::world;

RankTimes times_of(int rank, double work) {
  return {.total = 100.0 + rank, .work = work, .data = 0.25 * rank, .wait = 0.5 * rank, .flops = 2e12};
}

TEST(StragglersMpi, EveryRankKnowsAllTimes) {
  const std::vector<RankTimes> all = gather(world(), times_of(world().rank(), 1.5));
  EXPECT_EQ(std::ssize(all), world().size());
  for (int rank = 0; rank < static_cast<int>(all.size()); ++rank) {
    const RankTimes& times = all[static_cast<std::size_t>(rank)];
    EXPECT_DOUBLE_EQ(times.total, 100.0 + rank);
    EXPECT_DOUBLE_EQ(times.work, 1.5);
    EXPECT_DOUBLE_EQ(times.data, 0.25 * rank);
    EXPECT_DOUBLE_EQ(times.wait, 0.5 * rank);
    EXPECT_DOUBLE_EQ(times.flops, 2e12);
  }
}

// How often `slow` is named in five windows in which it takes `factor` times as long, and how often others
// are.
std::pair<int, int> named(int slow, double factor) {
  StragglerWatch watch;
  int it = 0, others = 0;
  for (int window = 0; window < 5; ++window) {
    const int rank = world().rank();
    for (const Straggler& straggler : watch.take(gather(world(), times_of(rank, rank == slow ? factor : 1))))
      ++(straggler.rank == slow ? it : others);
  }
  return {it, others};
}

TEST(StragglersMpi, ASlowRankIsNamedAndAUniformWorldNamesNone) {
  const int last = world().size() - 1;
  EXPECT_EQ(named(last, 1.5), std::pair(world().size() > 1 ? 1 : 0, 0));
  EXPECT_EQ(named(last, 1.0), std::pair(0, 0));
}

}  // namespace
}  // namespace sft::train
