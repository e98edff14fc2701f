#include "sft/memory/limits.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace sft::memory {
namespace {

class GroupLimit : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directory(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text << "\n";
  }
  std::optional<int64_t> limit(int64_t swap) const { return group_limit(folder_, swap); }

 private:
  std::filesystem::path folder_ =
      std::filesystem::path(::testing::TempDir()) / ("sft-group-" + std::to_string(::getpid()));
};

TEST_F(GroupLimit, Version2AllowsMemoryAndASwap) {
  write("memory.max", "1000");
  EXPECT_EQ(limit(0), 1000);
  EXPECT_EQ(limit(70), 1070);
  write("memory.swap.max", "max");
  EXPECT_EQ(limit(70), 1070);
  write("memory.swap.max", "5");
  EXPECT_EQ(limit(70), 1005);
  EXPECT_EQ(limit(3), 1003) << "no more than there is";
  write("memory.max", "max");
  EXPECT_EQ(limit(70), std::nullopt);
}

TEST_F(GroupLimit, Version1LimitsMemoryAndBothTogether) {
  write("memory.limit_in_bytes", "1000");
  EXPECT_EQ(limit(70), 1070);
  write("memory.memsw.limit_in_bytes", "1020");
  EXPECT_EQ(limit(70), 1020);
  EXPECT_EQ(limit(3), 1003);
  write("memory.limit_in_bytes", "9223372036854771712");  // its way to say none
  EXPECT_EQ(limit(70), std::nullopt);
}

TEST_F(GroupLimit, NoneWithoutFiles) {
  EXPECT_EQ(limit(70), std::nullopt);
}

TEST(MemoryLimits, LinesOfMeminfo) {
  const std::string meminfo = "MemTotal:       24689240 kB\nMemFree: 1 kB\nSwapTotal:             0 kB\n";
  EXPECT_EQ(meminfo_bytes(meminfo, "MemTotal"), int64_t{24689240} * 1024);
  EXPECT_EQ(meminfo_bytes(meminfo, "Mem"), 0);
  EXPECT_EQ(meminfo_bytes(meminfo, "SwapTotal"), 0);
  EXPECT_EQ(meminfo_bytes("", "MemTotal"), 0);
}

TEST(MemoryLimits, TheMachineIsTheLast) {
  const std::vector<Limit> found = limits();
  ASSERT_FALSE(found.empty());
  EXPECT_EQ(found.back().of, "the machine");
  EXPECT_GE(found.back().bytes, int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE));
}

}  // namespace
}  // namespace sft::memory
