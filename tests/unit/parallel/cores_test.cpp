#include "parallel/cores.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

namespace sft::parallel {
namespace cores_test {

TEST(Cores, SharesCoverAllCoresOnce) {
  const CoreSet cores{0, 1, 2, 5, 6, 7, 9};
  for (int sharers = 1; sharers <= 7; ++sharers) {
    CoreSet all;
    for (int place = 0; place < sharers; ++place) {
      const CoreSet part = share_of(cores, sharers, place);
      EXPECT_GE(static_cast<int>(part.size()), 7 / sharers);
      EXPECT_LE(static_cast<int>(part.size()), (7 + sharers - 1) / sharers);
      all.insert(all.end(), part.begin(), part.end());
    }
    EXPECT_EQ(all, cores) << sharers << " sharers";
  }
}

TEST(Cores, MoreSharersThanCoresMayUseThemAll) {
  EXPECT_EQ(share_of({3, 4}, 3, 2), (CoreSet{3, 4}));
}

TEST(Cores, OwnCoresAreThoseTheThreadLibrarySees) {
  EXPECT_EQ(cores_of(0).size(), std::thread::hardware_concurrency());
  EXPECT_EQ(cores_of(getpid()), cores_of(0));
}

TEST(Cores, QuotaIsRoundedUpAndMaxIsNone) {
  EXPECT_EQ(parse_cpu_max("200000 100000"), 2);
  EXPECT_EQ(parse_cpu_max("150000 100000"), 2);
  EXPECT_EQ(parse_cpu_max("max 100000"), std::nullopt);
  EXPECT_EQ(parse_cpu_max("-1 100000"), std::nullopt) << "version 1's way to say none";
  EXPECT_EQ(parse_cpu_max(""), std::nullopt);
}

}  // namespace cores_test
}  // namespace sft::parallel
