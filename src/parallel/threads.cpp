#include <ATen/Parallel.h>
#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
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
  CoreSet own;                     // this rank's share
  CoreSet allowed;                 // of all sharers together
  bool bound_by_launcher = false;  // to fewer than it might use, and nobody asked for that
};

Cores find_cores(const Topology& topology) {
  Cores cores;
  cores.allowed = cores_of(0);
  int sharers = topology.core_sharers, place = topology.core_place;
  if (!environment("OMPI_COMM_WORLD_LOCAL_RANK").empty() && !user_chose_binding()) {
    const auto launcher = launcher_cores();
    if (launcher && launcher->size() > cores.allowed.size()) {
      cores.allowed = *launcher;
      sharers = topology.local_world_size;
      place = topology.local_rank;
      cores.bound_by_launcher = true;
    }
  }
  cores.own = share_of(cores.allowed, sharers, place);
  return cores;
}

void run_on(const CoreSet& cores) {
  std::vector<cpu_set_t> set(static_cast<std::size_t>(cores.back()) / CPU_SETSIZE + 1);
  const std::size_t bytes = set.size() * sizeof(cpu_set_t);
  for (const int core : cores) CPU_SET_S(static_cast<std::size_t>(core), bytes, set.data());
  if (sched_setaffinity(0, bytes, set.data()) != 0)
    log::warning("the cores mpirun bound this rank to could not be changed");
}

int threads_from_environment() {
  const std::string_view text =
      environment("OMP_NUM_THREADS");  // may be a list, one number per nesting level
  int value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

int default_threads(const Cores& cores, const Topology& topology) {
  if (const int chosen = threads_from_environment(); chosen > 0) return chosen;
  int threads = static_cast<int>(cores.own.size());
  if (const auto quota = cpu_quota()) threads = std::min(threads, *quota / topology.local_world_size);
  return std::max(threads, 1);
}

}  // namespace

int configure_threads(int64_t requested, const Topology& topology) {
  const Cores cores = find_cores(topology);
  const int threads = requested > 0 ? base::narrow<int>(requested) : default_threads(cores, topology);
  if (cores.bound_by_launcher) {
    run_on(threads <= static_cast<int>(cores.own.size()) ? cores.own : cores.allowed);
  }
  at::set_num_threads(threads);
  omp_set_num_threads(threads);  // oneDNN's runtime
  return threads;
}

}  // namespace sft::parallel
