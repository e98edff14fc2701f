// How much memory the processes of a host may have.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sft::memory {

// Shared by all processes of the host for which `of` is the same.
struct Limit {
  std::string of;     // "control group /sys/fs/cgroup/job_7", "the machine"
  int64_t bytes = 0;  // memory and swap together: who asks for more is ended by the kernel
};

// Local. Of the calling process: its control groups, innermost first, and the machine; reads /proc and /sys.
std::vector<Limit> limits();

// Memory and swap in bytes; nothing: no limit. Of a control group's folder, of either version, on a machine
// with `swap` bytes of that.
std::optional<int64_t> group_limit(const std::filesystem::path& folder, int64_t swap);
// In bytes; 0: no such line. A line ("MemTotal") of /proc/meminfo.
int64_t meminfo_bytes(const std::string& meminfo, std::string_view name);

}  // namespace sft::memory
