#include "sft/train/bench.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <fmt/core.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>

#include "bench_report.h"
#include "memory_need.h"
#include "model_work.h"
#include "resume.h"
#include "run_parts.h"
#include "sft/model/weights.h"
#include "sft/optim/schedule.h"
#include "sft/train/agree.h"

namespace sft::train {
namespace {

using base::Phase;

struct StepParts {
  parallel::Communicator& comm;
  data::DataLoader& loader;
  engine::Engine& engine;
  optim::Optimizer& optimizer;
  const optim::Schedule& schedule;
  double max_grad_norm, router_aux_loss_coef;
  base::PhaseTimers& timers;
};

int64_t num_with_tokens(const data::Window& window) {
  return std::ranges::count_if(window.micro_batches, [](const data::MicroBatch& batch) { return batch.num_tokens() > 0; });
}

// Collective. One step as the trainer makes it; its window's part of this rank.
data::Window run_step(const StepParts& parts, int64_t step, const data::Cursor& cursor) {
  data::Window window = [&] {
    const auto timed = parts.timers.scope(Phase::kData);
    return parts.loader.next(cursor);
  }();
  std::array<int64_t, 2> counts{window.num_targets, num_with_tokens(window)};
  {
    const auto timed = parts.timers.scope(Phase::kCommunication);
    parts.comm.all_reduce(std::span<int64_t>(counts));
  }
  const auto share_of = [](int64_t count) { return 1.0 / static_cast<double>(std::max<int64_t>(1, count)); };
  parts.engine.zero_grad();
  for (const data::MicroBatch& batch : window.micro_batches) {
    const bool last = &batch == &window.micro_batches.back();
    parts.engine.forward_backward(batch, share_of(counts[0]), last, parts.router_aux_loss_coef * share_of(counts[1]));
  }
  parts.engine.finish_reduction();
  const engine::StepMetrics metrics = parts.engine.metrics();
  if (metrics.finite) {
    const auto timed = parts.timers.scope(Phase::kOptimizer);
    parts.optimizer.step(parts.schedule.at(step), optim::clip_factor(metrics.grad_norm, parts.max_grad_norm));
  }
  return window;
}

// Of the process; of a GPU, what it held there, caches included.
int64_t peak_memory_bytes(c10::Device device) {
  if (!device.is_cpu()) {
    const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
    return stats.reserved_bytes[static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

// Collective.
RankBench time_steps(const StepParts& parts, int64_t steps) {
  RankBench result;
  data::Cursor cursor = run_step(parts, 0, {}).end;  // not measured: the first touch of all memory
  parts.comm.barrier();
  parts.timers.take();
  const double start = base::monotonic_seconds();
  for (int64_t step = 1; step <= steps; ++step) {
    const data::Window window = run_step(parts, step, cursor);
    const metrics::StepWork work = step_work(window);
    result.work.num_tokens += work.num_tokens;
    result.work.num_targets += work.num_targets;
    result.work.sum_squared_lengths += work.sum_squared_lengths;
    result.micro_batches += num_with_tokens(window);
    cursor = window.end;
  }
  result.seconds = base::monotonic_seconds() - start;
  result.phases = parts.timers.take();
  return result;
}

// Collective: all ranks at the same time, as in a step. Of the sizes that the steps had on the average.
void measure_products(RankBench& result, const model::Decoder& decoder, bool bf16, c10::Device device,
                      parallel::Communicator& comm) {
  const metrics::ModelWork work = model_work(decoder);
  const int64_t batches = std::max<int64_t>(1, result.micro_batches);
  const int64_t tokens = std::max<int64_t>(1, result.work.num_tokens / batches);
  const int64_t targets = std::max<int64_t>(1, result.work.num_targets / batches);
  const int64_t head_tokens = std::min(targets, ops::HeadOptions{}.chunk);
  const std::vector<LinearShape> shapes = linear_shapes(decoder.spec(), work);
  for (const auto& [name, compute] :
       {std::pair("fp32", ops::ComputeDtype::kFp32), std::pair("bf16", ops::ComputeDtype::kBf16)}) {
    if (compute == ops::ComputeDtype::kBf16 && !bf16) continue;
    comm.barrier();
    result.products[name] = time_products(shapes, tokens, head_tokens, compute, device);
  }
}

// Collective; rank 0 prints.
void print(const RankBench& mine, const BenchRun& run, bool as_json, parallel::Communicator& comm) {
  std::vector<nlohmann::json> ranks;
  for (const std::string& text : comm.all_gather_bytes(to_json(mine).dump()))
    ranks.push_back(nlohmann::json::parse(text));
  if (comm.rank() != 0) return;
  const nlohmann::json report = bench_report(run, ranks);
  fmt::print("{}", as_json ? report.dump(2) + "\n" : bench_table(report));
}

}  // namespace

void run_bench(const config::ParsedOptions& parsed, parallel::MpiEnv& env, const BenchOptions& bench) {
  const config::Options& options = parsed.options;
  const parallel::Topology& topology = env.topology();
  base::PhaseTimers timers;
  const std::string device = parallel::select_device(options.runtime.device, topology);
  const int threads = parallel::configure_threads(options.runtime.threads_per_rank, topology);
  const auto comm = env.create_communicator(options.runtime.comm_backend, device);

  Inputs inputs;
  on_all_ranks(*comm, [&] { inputs = read_inputs(options); });
  const RunPlan plan = make_plan(options, inputs.train->size(), comm->size());
  const engine::EngineOptions engine_settings = engine_options(options, device, topology);
  engine::Engine engine(*inputs.decoder, engine_settings, *comm, timers);
  std::optional<optim::Schedule> schedule;
  std::unique_ptr<optim::Optimizer> optimizer;
  on_all_ranks(*comm, [&] {
    schedule.emplace(options.schedule, options.optimizer.learning_rate, plan.max_steps);
    optimizer = make_optimizer(options.optimizer, engine, schedule->warmup_steps());
    check_weights(*inputs.decoder, inputs.model_dir);
  });
  if (device == "cpu") check_memory(memory_need(engine, *optimizer, options.save, comm->size()), topology.host, *comm);
  engine.load_parameters(*model::open_model_weights(inputs.model_dir));
  if (inputs.adapter) start_adapter(*inputs.adapter, engine_settings.seed, engine, *comm);
  const auto loader =
      data::DataLoader::create(*inputs.train, loader_options_of(options.data, plan, comm->rank()));

  const StepParts parts{*comm, *loader, engine, *optimizer, *schedule, options.optimizer.max_grad_norm,
                        inputs.router_aux_loss_coef, timers};
  RankBench mine = time_steps(parts, bench.steps);
  mine.host = topology.host;
  mine.peak_memory_bytes = peak_memory_bytes(engine_settings.device);
  measure_products(mine, *inputs.decoder, options.precision.bf16, engine_settings.device, *comm);
  print(mine,
        {.model = options.model.model_name_or_path,
         .compute = options.precision.bf16 ? "bf16" : "fp32",
         .steps = bench.steps,
         .threads_per_rank = threads,
         .work = model_work(*inputs.decoder)},
        bench.json, *comm);
}

}  // namespace sft::train
