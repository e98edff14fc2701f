// Control groups (Linux, versions 1 and 2): what a batch system or a container lets its processes have.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace sft::base {

// Local. Folders of the calling process's group under `controller` ("memory", "cpu") and of the groups above
// it, innermost first, as far as they are mounted here; empty where there are none.
std::vector<std::filesystem::path> control_groups(std::string_view controller);

// The same by the contents of /proc/PID/cgroup and /proc/PID/mountinfo.
std::vector<std::filesystem::path> control_groups(std::string_view controller, const std::string& groups,
                                                  const std::string& mounts);

}  // namespace sft::base
