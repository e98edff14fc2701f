// Not a test itself: harness_test runs it and looks at how it ends.
#include <gtest/gtest.h>

#include <chrono>
#include <stdexcept>
#include <thread>

#include "support/mpi_test.h"

namespace sft::testing {
namespace {

TEST(Sample, Passes) {
  EXPECT_EQ(world().sum(int64_t{1}), world().size());
}

TEST(Sample, FailsOnRankOne) {
  EXPECT_EQ(2 + 2, world().rank() == 1 ? 5 : 4) << "two and two";
}

TEST(Sample, ThrowsOnRankOne) {
  if (world().rank() == 1) throw std::runtime_error("thrown on purpose");
}

TEST(Sample, HangsOnRankOne) {
  if (world().rank() == 1) std::this_thread::sleep_for(std::chrono::hours(1));
}

}  // namespace
}  // namespace sft::testing
