#include "sft/base/fatal_signal.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>

#include "sft/base/activity.h"

namespace sft::base {
namespace {

class FatalSignalDeathTest : public testing::Test {
 protected:
  FatalSignalDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

// Leaves this process `more` bytes of address space.
void limit_address_space(rlim_t more) {
  rlim_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t bytes = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + more;
  const rlimit limit{bytes, bytes};
  setrlimit(RLIMIT_AS, &limit);
}

TEST_F(FatalSignalDeathTest, SaysWhoEndsOfWhat) {
  for (const int number : {SIGSEGV, SIGABRT}) {
    EXPECT_DEATH(
        {
          name_fatal_signals("rank 1 h1");
          activity::set_step(7);
          activity::set_phase("forward");
          raise(number);
        },
        "error: \\[rank 1 h1\\] ended by signal " + std::to_string(number) +
            " \\(SIG.*\\) in step 7, phase forward\n");
  }
}

TEST_F(FatalSignalDeathTest, NearTheLimitItIsMemory) {
  EXPECT_EXIT(
      {
        name_fatal_signals("rank 1 h1");
        limit_address_space(1 << 16);
        raise(SIGSEGV);
      },
      testing::ExitedWithCode(90), "rank 1 h1.*signal 11.*out of memory, .* MiB of address space");
}

}  // namespace
}  // namespace sft::base
