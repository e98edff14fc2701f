#include "sft/train/doctor.h"

#include <ATen/ops/ones.h>
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>

#include "doctor_checks.h"
#include "sft/base/file.h"
#include "sft/base/timer.h"
#include "sft/checkpoint/checkpoint.h"
#include "sft/train/agree.h"

namespace sft::train {
namespace {

namespace fs = std::filesystem;
using base::ExitCode;
using parallel::Link;

constexpr int kMeasurements = 3;

AllFacts exchange(const RankFacts& mine, parallel::Communicator& comm) {
  AllFacts all;
  for (const std::string& text : comm.all_gather_bytes(to_json(mine))) all.push_back(facts_from_json(text));
  return all;
}

void keep_best(std::vector<Link>& links, const std::vector<Link>& again) {
  for (std::size_t r = 0; r < links.size(); ++r) {
    if (again[r].latency_seconds < links[r].latency_seconds) {
      links[r].latency_seconds = again[r].latency_seconds;
      links[r].clock_seconds = again[r].clock_seconds;
    }
    links[r].bytes_per_second = std::max(links[r].bytes_per_second, again[r].bytes_per_second);
  }
}

// A pair that looks slow is measured again: other users of a network come and go. All ranks see the same
// figures.
AllFacts facts_of_all(const config::Options& options, const parallel::Topology& topology,
                      parallel::Communicator& comm) {
  RankFacts mine = gather_facts(options, topology, comm);
  comm.barrier();  // waiting for a rank that still reads would be taken for the network
  mine.links = measure_links(topology);
  AllFacts all = exchange(mine, comm);
  for (int i = 1; i < kMeasurements && !check_links(all).ok(); ++i) {
    keep_best(mine.links, measure_links(topology));
    all = exchange(mine, comm);
  }
  return all;
}

int64_t checkpoints_in(const fs::path& folder) {
  return std::count_if(
      fs::directory_iterator(folder), fs::directory_iterator(), [](const fs::directory_entry& entry) {
        return entry.is_directory() && entry.path().filename().string().starts_with("checkpoint-");
      });
}

// Collective. The run's own test of its folder, and the space there.
std::vector<Finding> check_storage(const config::SaveOptions& options, const StorageNeed& need,
                                   parallel::Communicator& comm) {
  try {
    checkpoint::StoreOptions place;
    place.output_dir = options.output_dir;
    const auto store = checkpoint::Store::open(place, comm);
    std::vector<Finding> findings{
        Finding{"output_dir", {options.output_dir + ": shared by all hosts, writable, not in use"}}};
    on_rank_0(comm, [&] {
      findings.push_back(
          check_space(need, base::free_bytes(options.output_dir), checkpoints_in(options.output_dir)));
    });
    return findings;
  } catch (const base::Error& error) {
    if (error.seen_by() != base::SeenBy::kAllRanks) throw;
    return {Finding{"output_dir", {error.what()}, error.code()}};
  }
}

// Collective, when all ranks have a GPU.
Finding check_nccl(const parallel::Topology& topology, parallel::MpiEnv& env,
                   parallel::Communicator& control) {
  constexpr int64_t kElements = int64_t{16} << 20;
  constexpr int kRepeats = 5;
  double best = 0;
  try {
    on_all_ranks(control, [&] {
      const auto comm = env.create_communicator("auto", "cuda");
      const c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(topology.local_rank));
      for (int i = 0; i < kRepeats; ++i) {
        const at::Tensor data = at::ones({kElements}, at::TensorOptions(at::kFloat).device(device));
        data[0].item<float>();  // waits for the device
        const double start = base::monotonic_seconds();
        comm->all_reduce(data).wait();
        const float sum = data[0].item<float>();
        best = std::max(best, static_cast<double>(data.nbytes()) / (base::monotonic_seconds() - start));
        if (sum != static_cast<float>(topology.world_size))
          base::fail(ExitCode::kInternal, "NCCL summed ones of {} ranks to {}", topology.world_size, sum);
      }
    });
  } catch (const base::Error& error) {
    if (error.seen_by() != base::SeenBy::kAllRanks) throw;
    return {"GPU network", {error.what()}, error.code()};
  }
  return {"GPU network",
          {fmt::format("all-reduce of {} MB at {:.1f} GB/s", 4 * kElements / 1'000'000, best / 1e9)}};
}

}  // namespace

ExitCode examine_allocation(const config::Options& options, parallel::MpiEnv& env,
                            parallel::Communicator& comm) {
  const parallel::Topology& topology = env.topology();
  const AllFacts all = facts_of_all(options, topology, comm);
  std::vector<Finding> findings{check_hosts(all),  check_program(all), check_inputs(all),
                                check_device(all), check_cores(all),   check_memory(all),
                                check_limits(all), check_links(all),   check_clocks(all)};
  if (std::all_of(all.begin(), all.end(), [](const RankFacts& facts) { return facts.device == "cuda"; }))
    findings.push_back(check_nccl(topology, env, comm));
  for (Finding& line : check_storage(options.save, all.front().storage, comm))
    findings.push_back(std::move(line));
  if (comm.rank() == 0) fmt::print("{}", table(findings));
  return static_cast<ExitCode>(
      std::stoi(comm.broadcast_bytes(std::to_string(static_cast<int>(verdict(findings))), 0)));
}

}  // namespace sft::train
