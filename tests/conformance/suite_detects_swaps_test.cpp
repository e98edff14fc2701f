// The conformance suite must fail when one rank swaps two collectives, whether that mixes up data or blocks.
#include <gtest/gtest.h>

#include "support/child_process.h"

namespace sft::testing {
namespace {

ChildResult run_broken(const std::string& filter) {
  return run_mpi(2, std::string(SFT_SWAPPED_COMMUNICATOR) +
                        " --expect-ranks=2 --test-timeout=5 --gtest_filter='" + filter + "'");
}

TEST(SuiteDetectsSwaps, RunsCleanWhereNothingIsUnderWayTogether) {
  const ChildResult result = run_broken("*AllReduceMinAndMax*");
  EXPECT_EQ(result.exit_code, 0) << result.output;
}

TEST(SuiteDetectsSwaps, SumsOfEqualLength) {
  const ChildResult result = run_broken("*TwoSumsUnderWay*/swapped_sums");
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_NE(result.output.find("same(first, sum_of_values"), std::string::npos) << result.output;
}

TEST(SuiteDetectsSwaps, SumWithGather) {
  const ChildResult result = run_broken("*ManyOperationsUnderWay*/swapped_kinds");
  EXPECT_NE(result.exit_code, 0) << result.output;
  EXPECT_NE(result.output.find("ManyOperationsUnderWay"), std::string::npos) << result.output;
}

}  // namespace
}  // namespace sft::testing
