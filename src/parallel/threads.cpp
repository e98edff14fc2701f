#include <ATen/Parallel.h>
#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "parallel/cores.h"
#include "sft/base/checked.h"
#include "sft/base/log.h"
#include "sft/parallel/environment.h"

namespace sft::parallel {
namespace {

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

// Open MPI hands its binding options on as environment variables (versions 4 and 5).
bool user_chose_binding() {
  for (const char* name : {"OMPI_MCA_hwloc_base_binding_policy", "PRTE_MCA_hwloc_default_binding_policy"}) {
    if (!environment(name).empty()) return true;
  }
  for (const char* name : {"OMPI_MCA_rmaps_base_mapping_policy", "PRTE_MCA_rmaps_default_mapping_policy"}) {
    std::string_view policy = environment(name);
    if (policy.find("PE=") != policy.npos || policy.find("pe=") != policy.npos) return true;
  }
  return false;
}

struct Cores {
  CoreSet allowed;                 // of all ranks that share them
  CoreSet own;                     // this rank's share, all when there are more ranks than cores
  int threads = 1;                 // that the share is good for
  bool bound_by_launcher = false;  // elsewhere than the launcher itself, and nobody asked for that
};

Cores find_cores(const Topology& topology) {
  Cores cores;
  cores.allowed = cores_of(0);
  int sharers = topology.core_sharers, place = topology.core_place;
  if (!environment("OMPI_COMM_WORLD_LOCAL_RANK").empty() && !user_chose_binding()) {
    const auto launcher = launcher_cores();
    if (launcher && *launcher != cores.allowed) {
      cores.allowed = *launcher;
      sharers = topology.local_world_size;
      place = topology.local_rank;
      cores.bound_by_launcher = true;
    }
  }
  cores.own = share_of(cores.allowed, sharers, place);
  cores.threads = std::max(1, static_cast<int>(cores.allowed.size()) / sharers);
  if (const auto quota = cpu_quota()) {
    cores.threads = std::clamp(*quota / topology.local_world_size, 1, cores.threads);
  }
  return cores;
}

// Moves every thread of this process: MPI has started some.
void run_on(const CoreSet& cores) {
  std::vector<cpu_set_t> set(static_cast<std::size_t>(cores.back()) / CPU_SETSIZE + 1);
  const std::size_t bytes = set.size() * sizeof(cpu_set_t);
  for (const int core : cores) CPU_SET_S(static_cast<std::size_t>(core), bytes, set.data());
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    // No error: the thread may just have ended.
    sched_setaffinity(static_cast<pid_t>(std::stol(task.path().filename())), bytes, set.data());
  }
  if (cores_of(0) != cores) log::warning("this rank could not be moved off the cores mpirun bound it to");
}

// OMP_NUM_THREADS may be a list, one number per nesting level: the first counts. 0 when it is not set.
int threads_from_environment() {
  const std::string_view text = environment("OMP_NUM_THREADS");
  int value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

}  // namespace

std::vector<int> cores_in_use() {
  return cores_of(0);
}

int configure_threads(int64_t requested, const Topology& topology) {
  const Cores cores = find_cores(topology);
  int threads = requested > 0 ? base::narrow<int>(requested) : threads_from_environment();
  if (threads <= 0) threads = cores.threads;
  if (cores.bound_by_launcher) {
    run_on(threads <= static_cast<int>(cores.own.size()) ? cores.own : cores.allowed);
  }
  at::set_num_threads(threads);
  omp_set_num_threads(threads);  // oneDNN's runtime
  return threads;
}

}  // namespace sft::parallel
