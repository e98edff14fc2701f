#include "sft/memory/long_lived.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones_like.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "sft/base/error.h"

namespace sft::memory {
namespace {

int64_t resident_bytes() {
  int64_t size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident * ::getpagesize();
}

TEST(LongLivedZeros, AreZerosOfAnySize) {
  for (const int64_t numel : {int64_t{0}, int64_t{1}, int64_t{1000}, (int64_t{1} << 20) + 3}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kByte}) {
      at::Tensor zeros = long_lived_zeros(numel, type);
      EXPECT_EQ(zeros.scalar_type(), type);
      EXPECT_EQ(zeros.sizes(), at::IntArrayRef({numel}));
      EXPECT_TRUE(zeros.is_contiguous() && zeros.is_cpu());
      EXPECT_FALSE(zeros.to(at::kFloat).any().item<bool>());
      zeros += 1;
      EXPECT_TRUE(zeros.equal(at::ones_like(zeros)));
    }
  }
}

TEST(LongLivedZeros, TakeMemoryWhenTheyAreTouchedAndGiveItBack) {
  constexpr int64_t kNumel = int64_t{64} << 20, kBytes = 4 * kNumel;
  const int64_t before = resident_bytes();
  {
    const at::Tensor zeros = long_lived_zeros(kNumel, at::kFloat);
    EXPECT_LT(resident_bytes() - before, kBytes / 8);
    zeros.narrow(0, 0, kNumel / 2).fill_(1);
    EXPECT_GT(resident_bytes() - before, kBytes / 4);
  }
  EXPECT_LT(resident_bytes() - before, kBytes / 8);
}

void ask_for_more_than_the_limit() {
  const rlimit limit = {rlim_t{1} << 46, rlim_t{1} << 46};  // sanitizers reserve some 2^44
  setrlimit(RLIMIT_AS, &limit);
  try {
    long_lived_zeros(int64_t{1} << 45, at::kFloat);
  } catch (const base::Error& error) {
    std::fputs(error.what(), stderr);
    std::exit(static_cast<int>(error.code()));
  }
}

TEST(LongLivedZeros, WithoutRoomTheErrorSaysNeedAndLimit) {
  EXPECT_EXIT(ask_for_more_than_the_limit(), ::testing::ExitedWithCode(90),
              "140737488 MB more are needed.*ulimit -v.* is 70368744 MB");
}

}  // namespace
}  // namespace sft::memory
