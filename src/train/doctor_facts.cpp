#include "doctor_facts.h"

#include <fmt/core.h>
#include <link.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

#include "adapter_setup.h"
#include "dataset_checks.h"
#include "resume.h"
#include "run_parts.h"
#include "sft/base/file.h"
#include "sft/base/hash.h"
#include "sft/base/timer.h"
#include "sft/config/path_list.h"
#include "sft/model/decoder.h"
#include "sft/model/weights.h"
#include "sft/train/agree.h"
#include "sft/train/plan.h"

// Found by the JSON library in the namespace of the type.
namespace sft::parallel {
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Link, latency_seconds, bytes_per_second, clock_seconds)
}  // namespace sft::parallel

namespace sft::train {
namespace {

namespace fs = std::filesystem;
using base::ExitCode;

template <typename Action>
Attempt attempt(Action&& action) {
  try {
    action();
    return {};
  } catch (const base::Error& error) {
    return {error.code(), error.what()};
  } catch (const std::exception& error) {
    return {code_of(error), error.what()};
  }
}

// The evaluation sets that the run will read.
std::vector<config::ListedPath> evaluation_sets(const config::Options& options) {
  if (options.eval.eval_strategy == "no" && !options.eval.eval_on_start) return {};
  return config::named_paths(options.data.eval_dataset);
}

// --- Files

// Libraries whose version decides what a run computes or whether ranks understand each other.
bool is_of_interest(std::string_view library) {
  constexpr std::array<std::string_view, 8> kNames{"libtorch", "libc10",  "libmpi",  "libopen-pal",
                                                   "libhdf5",  "libdnnl", "libnccl", "libjemalloc"};
  return std::any_of(kNames.begin(), kNames.end(), [&](auto name) { return library.starts_with(name); });
}

int add_library(dl_phdr_info* info, std::size_t /*size*/, void* result) {
  const fs::path path = info->dlpi_name;
  std::error_code error;
  if (is_of_interest(path.filename().string()))
    (*static_cast<Fingerprints*>(result))[path.filename()] =
        fmt::format("{} bytes", fs::file_size(path, error));
  return 0;
}

Fingerprints fingerprint_program() {
  Fingerprints result{{"sft-dist", fingerprint("/proc/self/exe")}};
  ::dl_iterate_phdr(add_library, &result);
  return result;
}

std::vector<fs::path> model_files(const fs::path& folder) {
  std::vector<fs::path> files{folder / "config.json"};
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  }
  return files;
}

Fingerprints fingerprint_inputs(const config::Options& options) {
  std::vector<fs::path> files{options.data.train_dataset};
  for (const config::ListedPath& set : evaluation_sets(options)) files.push_back(set.path);
  Fingerprints result;
  const Attempt found = attempt([&] {
    const std::vector<fs::path> model =
        model_files(model::resolve_model_dir(options.model.model_name_or_path));
    files.insert(files.end(), model.begin(), model.end());
  });
  if (found.code != ExitCode::kDone) result[options.model.model_name_or_path] = found.message;
  for (const fs::path& file : files) result[file] = fingerprint(file);
  return result;
}

// --- What the run will open and write

// Bytes of optimizer state for each trained parameter: no less than any configuration of it keeps.
double state_bytes(const std::string& optim) {
  if (optim == "schedule_free_adamw") return 12;
  if (optim == "sgd" || optim == "lion_32bit") return 4;
  return 8;  // AdamW; the 8-bit one and Adafactor need less
}

int64_t num_saves(const config::SaveOptions& save, const RunPlan& plan) {
  const auto periods = [](double count, double length) {
    return length > 0 ? static_cast<int64_t>(std::ceil(count / length)) : 0;
  };
  const auto steps = static_cast<double>(plan.max_steps);
  if (save.save_strategy == "steps") return periods(steps, static_cast<double>(plan.save_steps));
  if (save.save_strategy == "epoch") return periods(plan.num_train_epochs, 1);
  if (save.save_strategy == "best") return periods(steps, static_cast<double>(plan.eval_steps));
  return save.save_on_interval_minutes.value_or(0) > 0 ? 1 : 0;
}

StorageNeed storage_need(const config::Options& options, const RunPlan& plan, const model::Decoder& decoder,
                         bool has_adapter) {
  int64_t all = 0, trained = 0;
  for (int64_t block = 0; block < decoder.num_blocks(); ++block) {
    for (const model::TensorDef& tensor : decoder.block_tensors(block)) {
      all += tensor.numel();
      if (tensor.trainable) trained += tensor.numel();
    }
  }
  StorageNeed need;
  need.final_model_bytes = 4 * (has_adapter ? trained : all);
  const double state = options.save.save_only_model ? 0 : state_bytes(options.optimizer.optim);
  need.checkpoint_bytes = need.final_model_bytes + static_cast<int64_t>(state * static_cast<double>(trained));
  need.num_checkpoints = num_saves(options.save, plan);
  // A new one is complete before the oldest goes.
  if (options.save.save_total_limit)
    need.num_checkpoints = std::min(need.num_checkpoints, *options.save.save_total_limit + 1);
  return need;
}

// Reserves what the run holds, and gives it back untouched.
RankMemory reserve_memory(const Inputs& inputs, const config::Options& options,
                          const parallel::Topology& topology, parallel::Communicator& comm) {
  base::PhaseTimers timers;
  const engine::Engine engine(*inputs.decoder, engine_options(options, "cpu", topology), comm, timers);
  const auto optimizer = make_optimizer(options.optimizer, engine, 0);
  return {topology.host, memory_need(engine, *optimizer, options.save, topology.world_size).total(),
          memory::limits()};
}

void open_inputs(RankFacts& facts, const config::Options& options, const parallel::Topology& topology,
                 parallel::Communicator& comm) {
  Inputs inputs;
  facts.open_inputs = attempt([&] {
    inputs = read_inputs(options);
    check_weights(*inputs.decoder, inputs.model_dir);
    facts.storage = storage_need(options, make_plan(options, inputs.train->size(), topology.world_size),
                                 *inputs.decoder, inputs.adapter.has_value());
  });
  if (facts.open_inputs.code != ExitCode::kDone || facts.device != "cpu") return;
  facts.reserve_memory = attempt([&] { facts.memory = reserve_memory(inputs, options, topology, comm); });
}

// --- The host

Limits find_limits() {
  Limits limits;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0)
    limits.open_files = static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, INT32_MAX));
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) == 0) limits.may_lock_all_memory = limit.rlim_cur == RLIM_INFINITY;
  std::error_code error;
  limits.has_infiniband =
      fs::exists("/sys/class/infiniband", error) && !fs::is_empty("/sys/class/infiniband", error);
  attempt([&] { limits.shared_memory_bytes = base::free_bytes("/dev/shm"); });
  return limits;
}

}  // namespace

std::string fingerprint(const std::string& path) {
  constexpr int64_t kWhole = int64_t{16} << 20, kStretch = int64_t{64} << 10, kStretches = 64;
  try {
    const base::File file(path, base::File::Mode::kRead);
    const int64_t size = file.size();
    const int64_t stretch = size <= kWhole ? std::max<int64_t>(size, 1) : kStretch;
    const int64_t count = size <= kWhole ? 1 : kStretches;
    base::Xxh3 hash;
    std::vector<std::byte> buffer(static_cast<std::size_t>(std::min(size, stretch)));
    for (int64_t i = 0; i < count; ++i) {
      file.read_at(count == 1 ? 0 : (size - stretch) * i / (count - 1), buffer);
      hash.update(buffer);
    }
    return fmt::format("{} bytes, xxh3 {}", size, hash.hex());
  } catch (const base::Error& error) {
    return error.what();
  }
}

RankFacts gather_facts(const config::Options& options, const parallel::Topology& topology,
                       parallel::Communicator& comm) {
  RankFacts facts;
  facts.rank = topology.rank;
  facts.host = topology.host;
  facts.ranks_on_host = topology.local_world_size;
  facts.select_device =
      attempt([&] { facts.device = parallel::select_device(options.runtime.device, topology); });
  facts.threads = parallel::configure_threads(options.runtime.threads_per_rank, topology);
  facts.cores = parallel::cores_in_use();
  facts.program = fingerprint_program();
  facts.inputs = fingerprint_inputs(options);
  open_inputs(facts, options, topology, comm);
  facts.limits = find_limits();
  return facts;
}

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Attempt, code, message)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Limits, open_files, has_infiniband, may_lock_all_memory,
                                   shared_memory_bytes)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(StorageNeed, checkpoint_bytes, num_checkpoints, final_model_bytes)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RankFacts, rank, host, ranks_on_host, program, inputs, open_inputs,
                                   storage, device, select_device, threads, cores, limits, reserve_memory,
                                   memory, links)

std::string to_json(const RankFacts& facts) {
  return nlohmann::json(facts).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

RankFacts facts_from_json(const std::string& text) {
  return nlohmann::json::parse(text).get<RankFacts>();
}

}  // namespace sft::train
