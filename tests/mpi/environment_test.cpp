// How a run looks from outside: topology, cores and threads, exit codes.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "parallel/cores.h"
#include "support/child_process.h"

namespace sft::testing {
namespace {

const std::string kProbe = SFT_ENVIRONMENT_PROBE;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    lines.push_back(text.substr(begin, end - begin));
    begin = end == std::string::npos ? text.size() : end + 1;
  }
  return lines;
}

std::string cores_text(const parallel::CoreSet& cores) {
  std::string text;
  for (const int core : cores) text += fmt::format(" {}", core);
  return text;
}

int quota_or(int cores) {
  return std::min(cores, parallel::cpu_quota().value_or(cores));
}

TEST(Environment, OneProcessWithoutLauncherUsesAllCores) {
  const ChildResult result = run_command("env -u OMP_NUM_THREADS " + kProbe + " show");
  const parallel::CoreSet cores = parallel::cores_of(0);
  const int threads = quota_or(static_cast<int>(cores.size()));
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.output, fmt::format("rank 0 of 1 local 0 of 1 hosts 1 threads {} {} cores{}\n", threads,
                                       threads, cores_text(cores)));
}

// mpirun binds each of two ranks to one core; the ranks share all cores evenly instead.
TEST(Environment, RanksDivideTheCoresMpirunMayUse) {
  const ChildResult result = run_mpi(2, kProbe + " show");
  EXPECT_EQ(result.exit_code, 0) << result.output;
  const parallel::CoreSet cores = parallel::cores_of(0);
  const int threads = std::max(1, quota_or(static_cast<int>(cores.size())) / 2);
  std::set<std::string> expected;
  for (int r = 0; r < 2; ++r) {
    expected.insert(fmt::format("rank {} of 2 local {} of 2 hosts 1 threads {} {} cores{}", r, r, threads,
                                threads, cores_text(parallel::share_of(cores, 2, r))));
  }
  const std::vector<std::string> lines = lines_of(result.output);
  EXPECT_EQ(std::set<std::string>(lines.begin(), lines.end()), expected) << result.output;
}

TEST(Environment, BindingTheUserChoseStays) {
  const ChildResult result = run_mpi(1, kProbe + " show", "--bind-to core");
  EXPECT_EQ(result.exit_code, 0) << result.output;
  const std::vector<std::string> lines = lines_of(result.output);
  ASSERT_EQ(lines.size(), 1U) << result.output;
  EXPECT_NE(lines[0].find("threads 1 1 cores"), std::string::npos) << lines[0];
}

TEST(Environment, ThreadsFromOmpNumThreads) {
  const ChildResult result = run_mpi(2, kProbe + " show", "-x OMP_NUM_THREADS=3,1");
  EXPECT_EQ(result.exit_code, 0) << result.output;
  for (const std::string& line : lines_of(result.output)) {
    EXPECT_NE(line.find("threads 3 3 cores"), std::string::npos) << line;
  }
}

TEST(Environment, AKilledRankIsToldToTheOthers) {
  const ChildResult result = run_mpi(3, kProbe + " killed");
  EXPECT_EQ(result.exit_code, 137) << result.output;
  for (const std::string rank : {"0", "1"}) EXPECT_NE(result.output.find("rank " + rank + " is told of rank 2\n"), std::string::npos) << result.output;
}

TEST(Environment, RanksThatLeaveTogetherAreNoLoss) {
  for (const int ranks : {1, 2, 3}) {
    const ChildResult result = run_mpi(ranks, kProbe + " lost");
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_EQ(result.output, "");
  }
}

TEST(Environment, RanksOnDifferentDevicesAreRefused) {
  const ChildResult result = run_mpi(2, kProbe + " mixed 2>&1");
  EXPECT_EQ(result.exit_code, 92) << result.output;
  EXPECT_NE(result.output.find("rank 0 ("), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("cuda: mend the host"), std::string::npos) << result.output;
}

TEST(Environment, AbortEndsTheJobWithItsCode) {
  EXPECT_EQ(run_mpi(3, kProbe + " abort 87").exit_code, 87);
  EXPECT_EQ(run_command(kProbe + " abort 87").exit_code, 87);
}

// Handles are destroyed while the error travels up; none of them may wait for the other ranks.
TEST(Environment, ErrorOnOneRankInsideACollectiveEndsTheJobWithItsMessage) {
  const ChildResult result = run_mpi(2, kProbe + " throw", "--timeout 30");
  EXPECT_EQ(result.exit_code, 91) << result.output;
  EXPECT_NE(result.output.find("error: the disk is full"), std::string::npos) << result.output;
}

}  // namespace
}  // namespace sft::testing
