// What the main() of multi-rank tests promises: tests that fail, hang or run on the wrong number of ranks do
// not pass.
#include <gtest/gtest.h>

#include <string>

#include "support/child_process.h"

namespace sft::testing {
namespace {

ChildResult run_sample(const std::string& filter, int ranks = 2) {
  return run_mpi(
      ranks, std::string(SFT_HARNESS_SAMPLE) + " --expect-ranks=2 --test-timeout=3 --gtest_filter=" + filter);
}

bool has(const ChildResult& result, const std::string& text) {
  return result.output.find(text) != std::string::npos;
}

TEST(Harness, FailureOnOneRankFailsTheTestOnRankZero) {
  const ChildResult result = run_sample("Sample.FailsOnRankOne:Sample.Passes");
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_TRUE(has(result, "[rank 1]") && has(result, "two and two")) << result.output;
  EXPECT_TRUE(has(result, "failed on rank 1")) << result.output;
  EXPECT_TRUE(has(result, "1 FAILED TEST")) << result.output;
  EXPECT_TRUE(has(result, "OK ] Sample.Passes")) << "the next test still runs\n" << result.output;
}

TEST(Harness, ExceptionOnOneRankFails) {
  const ChildResult result = run_sample("Sample.ThrowsOnRankOne");
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_TRUE(has(result, "thrown on purpose")) << result.output;
}

TEST(Harness, HangIsEndedAndNamed) {
  const ChildResult result = run_sample("Sample.HangsOnRankOne");
  EXPECT_EQ(result.exit_code, 3) << result.output;
  EXPECT_TRUE(has(result, "test Sample.HangsOnRankOne did not end within 3 s")) << result.output;
}

TEST(Harness, WrongNumberOfRanksIsAnError) {
  const ChildResult result = run_sample("Sample.Passes", 3);
  EXPECT_EQ(result.exit_code, 2) << result.output;
  EXPECT_TRUE(has(result, "2 ranks expected, 3 started")) << result.output;
}

TEST(Harness, NothingSelectedIsAnError) {
  const ChildResult result = run_sample("Sample.NoSuchTest");
  EXPECT_EQ(result.exit_code, 4) << result.output;
}

TEST(Harness, PassingTestsPass) {
  EXPECT_EQ(run_sample("Sample.Passes").exit_code, 0);
}

}  // namespace
}  // namespace sft::testing
