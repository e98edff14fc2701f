// Which cores a process may run on (Linux).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace sft::parallel {

using CoreSet = std::vector<int>;  // rising

CoreSet cores_of(pid_t process);  // 0: the calling thread; empty when it cannot be read

// The part of `cores` that is `place`'s among `sharers`: contiguous, sizes differing by at most one; all of
// them when there are fewer cores than sharers.
CoreSet share_of(const CoreSet& cores, int sharers, int place);

// What the nearest ancestor that is an MPI launcher or its daemon may run on: this machine, less what taskset
// or a container took away.
std::optional<CoreSet> launcher_cores();

// CPU time per second the control groups of this process may use, rounded up; nothing when there is no limit.
std::optional<int> cpu_quota();
std::optional<int> parse_cpu_max(const std::string& text);  // content of cgroup v2's cpu.max

}  // namespace sft::parallel
