#include "parallel/cores.h"

#include <fmt/core.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>

#include "sft/base/control_group.h"

namespace sft::parallel {
namespace {

std::string first_line(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

pid_t parent_of(pid_t process) {
  // /proc/PID/stat: pid (name) state ppid ...; the name may hold blanks and parentheses.
  const std::string line = first_line(fmt::format("/proc/{}/stat", process));
  const std::size_t end_of_name = line.rfind(')');
  if (end_of_name == std::string::npos) return 0;
  std::istringstream rest(line.substr(end_of_name + 1));
  char state = 0;
  pid_t parent = 0;
  rest >> state >> parent;
  return rest ? parent : 0;
}

bool is_launcher(const std::string& name) {
  constexpr std::array<std::string_view, 7> kNames{"mpirun",  "mpiexec", "orterun", "orted",
                                                   "prterun", "prted",   "prte"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

}  // namespace

CoreSet cores_of(pid_t process) {
  CoreSet result;
  // Machines with more cores than the static set holds need a larger one: the call fails until it fits.
  for (std::size_t capacity = CPU_SETSIZE; capacity <= 64 * CPU_SETSIZE; capacity *= 2) {
    std::vector<cpu_set_t> set(capacity / CPU_SETSIZE);
    const std::size_t bytes = set.size() * sizeof(cpu_set_t);
    if (sched_getaffinity(process, bytes, set.data()) != 0) continue;
    for (std::size_t core = 0; core < capacity; ++core) {
      if (CPU_ISSET_S(core, bytes, set.data())) result.push_back(static_cast<int>(core));
    }
    break;
  }
  return result;
}

CoreSet share_of(const CoreSet& cores, int sharers, int place) {
  const auto n = static_cast<int64_t>(cores.size());
  if (n < sharers) return cores;
  return {cores.begin() + n * place / sharers, cores.begin() + n * (place + 1) / sharers};
}

std::optional<CoreSet> launcher_cores() {
  for (pid_t process = getppid(); process > 1; process = parent_of(process)) {
    if (!is_launcher(first_line(fmt::format("/proc/{}/comm", process)))) continue;
    CoreSet cores = cores_of(process);
    if (cores.empty()) return std::nullopt;
    return cores;
  }
  return std::nullopt;
}

std::optional<int> parse_cpu_max(const std::string& text) {
  std::istringstream in(text);
  double quota = 0, period = 0;
  in >> quota >> period;  // "max 100000" fails here: no limit
  if (!in || quota <= 0 || period <= 0) return std::nullopt;
  return static_cast<int>((quota + period - 1) / period);
}

std::optional<int> cpu_quota() {
  std::optional<int> smallest;
  for (const std::filesystem::path& group : base::control_groups("cpu")) {
    for (const std::string& text :
         {first_line(group / "cpu.max"),
          first_line(group / "cpu.cfs_quota_us") + " " + first_line(group / "cpu.cfs_period_us")}) {
      if (const auto limit = parse_cpu_max(text)) smallest = std::min(*limit, smallest.value_or(*limit));
    }
  }
  return smallest;
}

}  // namespace sft::parallel
