#include "sft/train/run.h"

#include <fmt/core.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "adapter_setup.h"
#include "dataset_checks.h"
#include "resume.h"
#include "sft/base/file.h"
#include "sft/base/json.h"
#include "sft/base/log.h"
#include "sft/engine/flat_io.h"
#include "sft/model/weights.h"
#include "sft/ops/memory.h"
#include "sft/train/agree.h"
#include "sft/train/run_identity.h"
#include "sft/train/trainer.h"
#include "start_table.h"

namespace sft::train {
namespace {

namespace fs = std::filesystem;
using base::ExitCode;

// What is read from files before anything is allocated.
struct Inputs {
  fs::path model_dir;
  std::string config_json;
  std::optional<AdapterPlan> adapter;
  std::string adapter_identity;
  std::unique_ptr<model::Decoder> decoder;
  std::unique_ptr<data::TokenDataset> train, eval;
  std::vector<checkpoint::SideFile> side_files;
};

// config.json as it goes into checkpoints: it says what is written, which is fp32.
std::string config_for_checkpoint(const std::string& text, const std::string& file) {
  nlohmann::json config = base::parse_json(text, file);
  config.erase("torch_dtype");
  config["dtype"] = "float32";
  return config.dump(2) + "\n";
}

// Sets the file's bytes, replacing one of that name.
void put_file(std::vector<checkpoint::SideFile>& files, const std::string& name, std::string bytes) {
  std::erase_if(files, [&](const checkpoint::SideFile& file) { return file.name == name; });
  files.push_back({name, std::move(bytes)});
}

Inputs read_inputs(const config::Options& options) {
  Inputs inputs;
  inputs.model_dir = model::resolve_model_dir(options.model.model_name_or_path);
  const fs::path config_file = inputs.model_dir / "config.json";
  inputs.config_json = base::read_text(config_file);
  const model::DecoderSpec model = model::spec_from_config_json(inputs.config_json, config_file.string());
  inputs.adapter = plan_adapter(options.adapter, model);
  inputs.decoder = model::Decoder::create(model, inputs.adapter ? &inputs.adapter->spec : nullptr);
  const model::DecoderSpec& spec = inputs.decoder->spec();
  inputs.train =
      open_checked_dataset("train_dataset", options.data.train_dataset, options, spec, inputs.model_dir);
  if (options.eval.eval_strategy != "no" || options.eval.eval_on_start) {
    inputs.eval =
        open_checked_dataset("eval_dataset", options.data.eval_dataset, options, spec, inputs.model_dir);
  }
  inputs.side_files = tokenizer_files(options.data.train_dataset);
  if (inputs.adapter) {
    inputs.adapter_identity = adapter_identity(*inputs.adapter, options.adapter, inputs.config_json,
                                               *inputs.decoder, *model::open_model_weights(inputs.model_dir));
    put_file(inputs.side_files, model::kAdapterConfigFile,
             adapter_config(*inputs.adapter, *inputs.decoder, options.model.model_name_or_path));
  } else {
    put_file(inputs.side_files, "config.json",
             config_for_checkpoint(inputs.config_json, config_file.string()));
    if (fs::exists(inputs.model_dir / "generation_config.json")) {
      put_file(inputs.side_files, "generation_config.json",
               base::read_text(inputs.model_dir / "generation_config.json"));
    }
  }
  put_file(inputs.side_files, "run.ini", config::to_ini(options));
  return inputs;
}

std::unique_ptr<data::DataLoader> make_loader(const data::TokenDataset& dataset,
                                              const config::DataOptions& options, const RunPlan& plan,
                                              int rank) {
  const auto strategy = options.train_sampling_strategy == "sequential" ? data::SamplingStrategy::kSequential
                                                                        : data::SamplingStrategy::kRandom;
  return data::DataLoader::create(dataset,
                                  {.layout = plan.layout,
                                   .rank = rank,
                                   .strategy = strategy,
                                   .seed = static_cast<uint64_t>(options.data_seed.value_or(options.seed))});
}

std::unique_ptr<optim::Optimizer> make_optimizer(const config::OptimizerOptions& options,
                                                 const engine::Engine& engine) {
  std::vector<optim::FlatRange> ranges;
  for (const engine::ParameterBlock& block : engine.blocks()) {
    ranges.push_back({block.parameters(), block.gradients(), block.num_decayed()});
  }
  return optim::Optimizer::create(options, std::move(ranges));
}

std::unique_ptr<metrics::TrainLog> open_log(const config::Options& options, const RunPlan& plan, int rank) {
  const bool on_terminal = ::isatty(STDERR_FILENO) != 0;
  const std::string& report_to = options.logging.report_to;
  return metrics::TrainLog::open(
      {.rank = rank,
       .output_dir = options.save.output_dir,
       .run_name = options.logging.run_name,
       .tensorboard = report_to.find("tensorboard") != std::string::npos || report_to == "all",
       .show_progress_bar = on_terminal && !options.logging.disable_tqdm.value_or(false),
       .max_steps = plan.max_steps,
       .train_batch_size = plan.layout.micro_batch_size,
       .logging_steps = plan.logging_steps,
       .eval_steps = plan.eval_steps,
       .save_steps = plan.save_steps,
       .num_train_epochs = plan.num_train_epochs});
}

engine::FrozenLinears frozen_linears(const config::AdapterOptions& options) {
  if (!options.load_in_4bit) return engine::FrozenLinears::kPlain;
  return options.use_bnb_nested_quant ? engine::FrozenLinears::kNf4Nested : engine::FrozenLinears::kNf4;
}

// First values of a new run's adapters.
void start_adapter(const AdapterPlan& plan, uint64_t seed, engine::Engine& engine,
                   parallel::Communicator& comm) {
  if (plan.start_from.empty()) return engine.initialize_adapters(plan.init, seed);
  std::unique_ptr<model::TensorSource> source;
  on_all_ranks(comm, [&] {
    source = model::open_adapter_weights(plan.start_from);
    for (const engine::ParameterBlock& block : engine.blocks()) {
      for (const model::TensorDef& tensor : block.tensors()) engine::name_in_source(tensor, *source, "");
    }
  });
  engine.load_trainable(*source);
}

}  // namespace

ExitCode run_training(const config::ParsedOptions& parsed, parallel::MpiEnv& env) {
  const config::Options& options = parsed.options;
  const parallel::Topology& topology = env.topology();
  const StopSignals signals;
  base::PhaseTimers timers;

  const std::string device = parallel::select_device(options.runtime.device, topology);
  const int threads = parallel::configure_threads(options.runtime.threads_per_rank, topology);
  ops::keep_freed_memory();
  const auto comm = env.create_communicator(options.runtime.comm_backend, device);
  const bool first = comm->rank() == 0;
  if (first) {
    for (const std::string& notice : parsed.notices) log::info("note: {}", notice);
  }

  Inputs inputs;
  on_all_ranks(*comm, [&] { inputs = read_inputs(options); });
  const model::DecoderSpec& spec = inputs.decoder->spec();
  const RunPlan plan = make_plan(options, inputs.train->size(), comm->size());
  const std::string identity =
      run_identity(options, plan, inputs.train->info(), spec, device, threads, inputs.adapter_identity);
  comm->check_same("options, model and data",
                   config::to_json(options) + inputs.config_json + inputs.train->info().content_xxh3);

  std::optional<optim::Schedule> schedule;
  int64_t max_shard_bytes = 0;
  on_all_ranks(*comm, [&] {
    schedule.emplace(options.schedule, options.optimizer.learning_rate, plan.max_steps);
    max_shard_bytes = checkpoint::parse_size(options.save.max_shard_size);
  });

  const auto store = checkpoint::Store::open({.output_dir = options.save.output_dir,
                                              .save_total_limit = options.save.save_total_limit,
                                              .max_shard_bytes = max_shard_bytes},
                                             *comm);
  const std::unique_ptr<checkpoint::Reader> found = find_checkpoint(options.save, *store, *comm);
  if (found) check_resumable(found->environment(), identity, plan, options.batch.allow_batch_change);
  if (first)
    base::write_text_atomically(fs::path(options.save.output_dir) / "run.ini", config::to_ini(options));

  engine::Engine engine(
      *inputs.decoder,
      {.compute = options.precision.bf16 ? ops::ComputeDtype::kBf16 : ops::ComputeDtype::kFp32,
       .gradient_checkpointing = options.precision.gradient_checkpointing,
       .seed = static_cast<uint64_t>(options.data.seed),
       .device = device == "cuda"
                     ? c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(topology.local_rank))
                     : c10::Device(c10::kCPU),
       .frozen_dtype = options.adapter.base_dtype == "bfloat16" ? c10::kBFloat16 : c10::kFloat,
       .frozen_linears = frozen_linears(options.adapter)},
      *comm, timers);
  const auto optimizer = make_optimizer(options.optimizer, engine);
  const auto loader = make_loader(*inputs.train, options.data, plan, comm->rank());
  const auto log = open_log(options, plan, comm->rank());
  std::unique_ptr<Evaluator> evaluator;
  if (inputs.eval) {
    evaluator = std::make_unique<Evaluator>(
        *inputs.eval, EvaluatorOptions{options.batch.per_device_eval_batch_size, options.runtime.trl_compat},
        engine, *comm, timers);
  }

  TrainState state;
  if (!found || inputs.adapter) {  // an adapter's checkpoint holds no frozen weights
    on_all_ranks(*comm, [&] { check_weights(*inputs.decoder, inputs.model_dir); });
    engine.load_parameters(*model::open_model_weights(inputs.model_dir));
  }
  if (found) {
    state = restore(*found, engine, *optimizer, *log, *comm);
  } else if (inputs.adapter) {
    start_adapter(*inputs.adapter, static_cast<uint64_t>(options.data.seed), engine, *comm);
  }

  log->table("sft-dist", start_table(options, plan, *inputs.train, inputs.eval.get(), engine, *optimizer,
                                     *comm, topology, device, threads));
  log->event(found ? "resumed" : "started", state.step,
             nlohmann::json{{"world_size", comm->size()}, {"threads_per_rank", threads}}.dump());

  Trainer trainer(
      {*comm, *loader, engine, *optimizer, *schedule, evaluator.get(), *store, *log, signals, timers},
      {.plan = plan,
       .logging = options.logging,
       .eval = options.eval,
       .save = options.save,
       .max_grad_norm = options.optimizer.max_grad_norm,
       .max_non_finite_steps = options.optimizer.max_non_finite_steps,
       .trl_compat = options.runtime.trl_compat,
       .identity = identity,
       .model_part = inputs.adapter ? checkpoint::ModelPart::kAdapter : checkpoint::ModelPart::kWhole,
       .side_files = std::move(inputs.side_files)});
  return trainer.run(state);
}

}  // namespace sft::train
