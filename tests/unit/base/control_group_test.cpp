#include "sft/base/control_group.h"

#include <gtest/gtest.h>

namespace sft::base {
namespace {

using Paths = std::vector<std::filesystem::path>;

constexpr const char* kVersion1 =
    "9:name=systemd:/\n4:memory:/slurm/uid_7/job_8/step_0\n2:cpu,cpuacct:/\n0::/\n";
constexpr const char* kMounts1 =
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

TEST(ControlGroups, Version1FromTheInnermostToTheRoot) {
  EXPECT_EQ(
      control_groups("memory", kVersion1, kMounts1),
      (Paths{"/sys/fs/cgroup/memory/slurm/uid_7/job_8/step_0", "/sys/fs/cgroup/memory/slurm/uid_7/job_8",
             "/sys/fs/cgroup/memory/slurm/uid_7", "/sys/fs/cgroup/memory/slurm", "/sys/fs/cgroup/memory"}));
  EXPECT_EQ(control_groups("cpu", kVersion1, kMounts1), (Paths{"/sys/fs/cgroup/cpu,cpuacct"}));
}

TEST(ControlGroups, Version2) {
  EXPECT_EQ(
      control_groups("memory", "0::/system.slice/slurmd.service\n",
                     "30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"),
      (Paths{"/sys/fs/cgroup/system.slice/slurmd.service", "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup"}));
}

TEST(ControlGroups, AContainerSeesItsOwnGroupAsTheRoot) {
  const char* const mounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
  EXPECT_EQ(control_groups("memory", "4:memory:/docker/abc\n", mounts), (Paths{"/sys/fs/cgroup/memory"}));
  EXPECT_EQ(control_groups("memory", "4:memory:/docker/abc/job\n", mounts),
            (Paths{"/sys/fs/cgroup/memory/job", "/sys/fs/cgroup/memory"}));
  EXPECT_EQ(control_groups("memory", "4:memory:/docker/other\n", mounts), (Paths{"/sys/fs/cgroup/memory"}));
}

TEST(ControlGroups, WhatLiesOnTopCounts) {
  EXPECT_EQ(
      control_groups(
          "memory", "4:memory:/a\n",
          "1 0 0:1 / /below rw - cgroup cgroup rw,memory\n2 0 0:1 / /above rw - cgroup cgroup rw,memory\n"),
      (Paths{"/above/a", "/above"}));
}

TEST(ControlGroups, NoneWhereNoneAreMounted) {
  EXPECT_TRUE(control_groups("memory", "", "").empty());
  EXPECT_TRUE(control_groups("memory", "0::/\n", "").empty());
  EXPECT_TRUE(control_groups("memory", kVersion1, "35 31 0:32 / /x rw - tmpfs tmpfs rw\nnonsense\n").empty());
}

}  // namespace
}  // namespace sft::base
