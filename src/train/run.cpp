#include "sft/train/run.h"

#include <fmt/chrono.h>
#include <fmt/core.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "goodput.h"
#include "heartbeat.h"
#include "memory_need.h"
#include "resume.h"
#include "run_parts.h"
#include "sft/base/file.h"
#include "sft/base/json.h"
#include "sft/base/log.h"
#include "sft/config/path_list.h"
#include "sft/data/inspector.h"
#include "sft/engine/flat_io.h"
#include "sft/model/weights.h"
#include "sft/train/agree.h"
#include "sft/train/run_identity.h"
#include "sft/train/trainer.h"
#include "tokenizer_files.h"
#include "start_table.h"
#include "time_account.h"

namespace sft::train {
namespace {

namespace fs = std::filesystem;
using base::ExitCode;

// As transformers' align_special_tokens: what ends a row of the data ends a generation. A list gets it in front; `several`: so does a number.
void align_eos(nlohmann::json& config, std::optional<int64_t> eos, bool several) {
  if (!eos) return;
  const nlohmann::json now = config.value("eos_token_id", nlohmann::json());
  std::vector<nlohmann::json> ids(1, now);
  if (now.is_array()) ids.assign(now.begin(), now.end());
  std::erase_if(ids, [](const nlohmann::json& id) { return id.is_null(); });
  if (std::find(ids.begin(), ids.end(), nlohmann::json(*eos)) != ids.end()) return;
  ids.insert(ids.begin(), *eos);
  config["eos_token_id"] = several || now.is_array() ? nlohmann::json(ids) : nlohmann::json(*eos);
}

// A tokenizer as chat_template_path brings what ends a row; as in TRL's clone_chat_template that alone ends a generation.
bool eos_is_of_template(const config::PrepareOptions& prepare) {
  const fs::path path = prepare.chat_template_path;
  return !path.empty() && path.extension() != ".jinja" && path.extension() != ".j2";
}

void put_eos(nlohmann::json& config, std::optional<int64_t> eos, const config::PrepareOptions& prepare, bool several) {
  if (eos && eos_is_of_template(prepare)) {
    config["eos_token_id"] = *eos;
  } else {
    align_eos(config, eos, several);
  }
}

std::optional<int64_t> chosen_pad(const config::PrepareOptions& prepare, const data::DatasetInfo& info) {
  return prepare.pad_token.empty() ? std::nullopt : info.pad_token_id;
}

// config.json as it goes into checkpoints: it says what is written, which is fp32, and the tokens in use.
std::string config_for_checkpoint(const std::string& text, const std::string& file, const model::DecoderSpec& spec,
                                  const config::PrepareOptions& prepare, const data::DatasetInfo& info) {
  nlohmann::json config = base::parse_json(text, file);
  config.erase("torch_dtype");
  config["dtype"] = "float32";
  if (!spec.tie_word_embeddings) config["tie_word_embeddings"] = false;  // the weights may have untied them
  put_eos(config, info.eos_token_id, prepare, /*several=*/false);
  if (const auto pad = chosen_pad(prepare, info)) config["pad_token_id"] = *pad;
  return config.dump(2) + "\n";
}

// Sets the file's bytes, replacing one of that name.
void put_file(std::vector<checkpoint::SideFile>& files, const std::string& name, std::string bytes) {
  std::erase_if(files, [&](const checkpoint::SideFile& file) { return file.name == name; });
  files.push_back({name, std::move(bytes)});
}

// generation_config.json of the model, or the one that sft-prepare made, with the tokens in use.
void put_generation_config(Inputs& inputs, const config::PrepareOptions& prepare) {
  const std::string name = "generation_config.json";
  const fs::path file = inputs.model_dir / name;
  const auto prepared = std::ranges::find(inputs.side_files, name, &checkpoint::SideFile::name);
  const bool of_model = fs::exists(file);
  if (!of_model && prepared == inputs.side_files.end()) return;
  const std::string text = of_model ? base::read_text(file) : prepared->bytes;
  nlohmann::json values = base::parse_json(text, of_model ? file.string() : name + " beside the data set");
  if (!values.is_object()) base::fail(ExitCode::kInvalidData, "{}: not a JSON object", file.string());
  const nlohmann::json before = values;
  put_eos(values, inputs.train->info().eos_token_id, prepare, /*several=*/true);
  if (const auto pad = chosen_pad(prepare, inputs.train->info())) values["pad_token_id"] = *pad;
  put_file(inputs.side_files, name, values == before ? text : values.dump(2) + "\n");
}

// What the load-balancing loss of a mixture of experts weighs; 0 without one.
double router_aux_loss_coef(const config::LossOptions& options, const model::DecoderSpec& spec) {
  if (spec.mixture) return options.router_aux_loss_coef.value_or(spec.mixture->router_aux_loss_coef);
  if (options.router_aux_loss_coef.value_or(0) > 0) {
    base::fail(ExitCode::kConfig,
               "router_aux_loss_coef = {}: this {} model has no experts whose load could be balanced; leave "
               "the option out",
               *options.router_aux_loss_coef, spec.model_type);
  }
  return 0;
}

engine::FrozenLinears frozen_linears(const config::AdapterOptions& options) {
  if (!options.load_in_4bit) return engine::FrozenLinears::kPlain;
  return options.use_bnb_nested_quant ? engine::FrozenLinears::kNf4Nested : engine::FrozenLinears::kNf4;
}

}  // namespace

Inputs read_inputs(const config::Options& options) {
  Inputs inputs;
  inputs.model_dir = model::resolve_model_dir(options.model.model_name_or_path);
  const fs::path config_file = inputs.model_dir / "config.json";
  inputs.config_json = base::read_text(config_file);
  const model::DecoderSpec model = model::spec_of_model(inputs.model_dir);
  inputs.adapter = plan_adapter(options.adapter, model);
  inputs.decoder = model::Decoder::create(model, inputs.adapter ? &inputs.adapter->spec : nullptr);
  const model::DecoderSpec& spec = inputs.decoder->spec();
  inputs.router_aux_loss_coef = router_aux_loss_coef(options.loss, spec);
  inputs.train = open_checked_dataset({}, options.data.train_dataset, options, spec, inputs.model_dir);
  if (options.eval.eval_strategy != "no" || options.eval.eval_on_start) {
    for (const config::ListedPath& set : config::named_paths(options.data.eval_dataset)) {
      inputs.eval.push_back({set.name, set.path,
                             open_checked_dataset({.name = set.name, .is_evaluation = true}, set.path,
                                                  options, spec, inputs.model_dir)});
    }
  }
  inputs.side_files = tokenizer_files(options.data.train_dataset);
  if (inputs.adapter) {
    inputs.adapter_identity = adapter_identity(*inputs.adapter, options.adapter, inputs.config_json,
                                               *inputs.decoder, *model::open_model_weights(inputs.model_dir));
    put_file(inputs.side_files, model::kAdapterConfigFile,
             adapter_config(*inputs.adapter, *inputs.decoder, options.model.model_name_or_path));
  } else {
    put_file(inputs.side_files, "config.json",
             config_for_checkpoint(inputs.config_json, config_file.string(), inputs.decoder->spec(), options.prepare,
                                   inputs.train->info()));
  }
  put_generation_config(inputs, options.prepare);
  put_file(inputs.side_files, "run.ini", config::to_ini(options));
  return inputs;
}

namespace {

bool is_in(const std::vector<model::TensorDef>& tensors, const model::TensorDef& tensor) {
  return std::any_of(tensors.begin(), tensors.end(), [&](const auto& other) { return other.name == tensor.name; });
}

}  // namespace

std::unique_ptr<optim::Optimizer> make_optimizer(const config::OptimizerOptions& options,
                                                 const engine::Engine& engine, int64_t warmup_steps) {
  std::vector<optim::FlatRange> ranges;
  const model::DecoderSpec& spec = engine.decoder().spec();
  const std::vector<model::TensorDef>& embedding = engine.decoder().block_tensors(0);
  for (const engine::ParameterBlock& block : engine.blocks()) {
    optim::FlatRange range{block.parameters(), block.gradients(), block.num_decayed(), {}};
    for (std::size_t t = 0; t < block.tensors().size(); ++t) {
      const std::vector<int64_t>& shape = block.tensors()[t].shape;
      const bool projection = spec.embedding_size != spec.hidden_size &&
                              shape == std::vector<int64_t>{spec.hidden_size, spec.embedding_size};
      range.tensors.push_back({.offset = block.placement(t).offset,
                               .shape = shape,
                               .is_embedding = is_in(embedding, block.tensors()[t]) && shape.size() == 2 && !projection &&
                                               block.tensors()[t].adapter == model::AdapterPart::kNone});
    }
    ranges.push_back(std::move(range));
  }
  return optim::Optimizer::create(options, std::move(ranges), warmup_steps);
}

engine::EngineOptions engine_options(const config::Options& options, const std::string& device,
                                     const parallel::Topology& topology) {
  return {.compute = options.precision.bf16 ? ops::ComputeDtype::kBf16 : ops::ComputeDtype::kFp32,
          .gradient_checkpointing = options.precision.gradient_checkpointing,
          .seed = static_cast<uint64_t>(options.data.seed),
          .neftune_alpha = options.loss.neftune_noise_alpha.value_or(0),
          .loss = {.kind = options.loss.loss_type == "dft" ? ops::LossKind::kDft : ops::LossKind::kNll,
                   .label_smoothing = options.loss.label_smoothing_factor,
                   .token_metrics = options.logging.log_token_metrics},
          .device = device == "cuda"
                        ? c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(topology.local_rank))
                        : c10::Device(c10::kCPU),
          .frozen_dtype = options.adapter.base_dtype == "bfloat16" ? c10::kBFloat16 : c10::kFloat,
          .frozen_linears = frozen_linears(options.adapter)};
}

namespace {

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
       .num_train_epochs = plan.num_train_epochs,
       .early_stopping_patience = options.best.early_stopping_patience,
       .early_stopping_threshold = options.best.early_stopping_threshold});
}

std::vector<std::string> hashes_of(const std::vector<EvaluationSet>& sets) {
  std::vector<std::string> hashes;
  for (const EvaluationSet& set : sets) hashes.push_back(set.dataset->info().content_xxh3);
  return hashes;
}

// TRL evaluates in an order of its own too.
std::optional<uint64_t> length_grouped_seed(const config::Options& options) {
  if (!options.runtime.trl_compat || options.data.train_sampling_strategy != "group_by_length") return std::nullopt;
  return static_cast<uint64_t>(options.data.data_seed.value_or(options.data.seed));
}

std::vector<std::string> names_of_metrics(const std::vector<Evaluator*>& evaluators) {
  std::vector<std::string> names;
  for (const Evaluator* evaluator : evaluators) {
    for (std::string& name : evaluator->metric_names()) names.push_back(std::move(name));
  }
  return names;
}

// From here on, what a rank that hangs has to say goes to one folder for all ranks of this start.
void watch(base::Watchdog& watchdog, const config::Options& options, parallel::Communicator& comm,
           const std::vector<std::string>& hosts) {
  const auto limit = [on = options.runtime.watchdog](double seconds) {
    return on ? seconds : std::numeric_limits<double>::infinity();
  };
  const std::string started =
      comm.broadcast_bytes(fmt::format("{:%Y-%m-%dT%H-%M-%S}", fmt::gmtime(std::time(nullptr))), 0);
  watchdog.set_rank({.folder = fs::absolute(options.save.output_dir) / "diagnostics" / ("hang-" + started),
                     .rank = comm.rank(),
                     .hosts = hosts},
                    {.start = limit(options.runtime.watchdog_start_seconds),
                     .step = limit(options.runtime.watchdog_step_seconds),
                     .evaluation = limit(options.runtime.watchdog_evaluation_seconds),
                     .checkpoint = limit(options.runtime.watchdog_checkpoint_seconds),
                     .finish = limit(options.runtime.watchdog_finish_seconds)});
}

}  // namespace

void start_adapter(const AdapterPlan& plan, uint64_t seed, engine::Engine& engine,
                   parallel::Communicator& comm) {
  if (plan.start_from.empty()) return engine.initialize_adapters(plan.init, seed);
  std::unique_ptr<model::TensorSource> source;
  on_all_ranks(comm, [&] {
    source = model::open_adapter_weights(plan.start_from);
    engine::check_holds_exactly(engine.blocks(), *source);
  });
  engine.load_trainable(*source);
}

ExitCode run_training(const config::ParsedOptions& parsed, parallel::MpiEnv& env, base::Watchdog& watchdog) {
  const config::Options& options = parsed.options;
  const parallel::Topology& topology = env.topology();
  const StopSignals signals;
  base::PhaseTimers timers;

  const std::string device = parallel::select_device(options.runtime.device, topology);
  const int threads = parallel::configure_threads(options.runtime.threads_per_rank, topology);
  const auto comm = env.create_communicator(options.runtime.comm_backend, device);
  const bool first = comm->rank() == 0;
  const std::vector<std::string> hosts = comm->all_gather_bytes(topology.host);
  watch(watchdog, options, *comm, hosts);
  env.on_loss([&watchdog](int rank) { watchdog.lost(rank); });
  if (first) {
    for (const std::string& notice : parsed.notices) log::info("note: {}", notice);
  }

  Inputs inputs;
  on_all_ranks(*comm, [&] { inputs = read_inputs(options); });
  data::stop_inspector();
  const model::DecoderSpec& spec = inputs.decoder->spec();
  comm->check_same("options, model and data",
                   fmt::format("{}{}{}{}{}", config::to_json(options), inputs.config_json, inputs.adapter_identity,
                               inputs.train->info().content_xxh3, fmt::join(hashes_of(inputs.eval), ",")));
  RunPlan plan = make_plan(options, inputs.train->size(), comm->size());

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
  std::unique_ptr<checkpoint::Reader> found = find_checkpoint(options.save, *store, *comm);
  const bool resumes = found != nullptr;
  const checkpoint::Place place = resumes ? store->place_of(*found) : checkpoint::Place::kElsewhere;
  if (resumes) {
    on_all_ranks(*comm, [&] {
      const TrainState at = TrainState::from_json(found->train_state());
      plan = make_plan(options, inputs.train->size(), comm->size(), at.step, at.cursor);
      schedule.emplace(options.schedule, options.optimizer.learning_rate, plan.max_steps);
    });
  }
  const std::string identity = run_identity(options, plan, inputs.train->info(), spec, device, threads,
                                            inputs.adapter_identity, hashes_of(inputs.eval));
  if (found) check_resumable(found->environment(), identity, plan, options.batch.allow_batch_change);

  engine::Engine engine(*inputs.decoder, engine_options(options, device, topology), *comm, timers);
  std::unique_ptr<optim::Optimizer> optimizer;
  on_all_ranks(*comm,
               [&] { optimizer = make_optimizer(options.optimizer, engine, schedule->warmup_steps()); });
  const MemoryNeed memory = memory_need(engine, *optimizer, options.save, comm->size());
  if (device == "cpu") check_memory(memory, topology.host, *comm);
  const auto loader =
      data::DataLoader::create(*inputs.train, loader_options_of(options.data, plan, comm->rank()));
  std::vector<std::unique_ptr<Evaluator>> owned_evaluators;
  std::vector<Evaluator*> evaluators;
  for (const EvaluationSet& set : inputs.eval) {
    owned_evaluators.push_back(std::make_unique<Evaluator>(
        *set.dataset,
        EvaluatorOptions{
            .name = set.name,
            .per_device_eval_batch_size = options.batch.per_device_eval_batch_size,
            .micro_batch_tokens = plan.micro_batch_tokens,
            .trl_compat = options.runtime.trl_compat,
            .drop_last = options.data.dataloader_drop_last,
            .length_grouped_seed = length_grouped_seed(options),
            .token_metrics = options.logging.log_token_metrics,
            .loss_is_perplexity = options.loss.loss_type == "nll" && options.loss.label_smoothing_factor == 0,
            .router_aux_loss_coef = inputs.router_aux_loss_coef},
        engine, *comm, timers));
    evaluators.push_back(owned_evaluators.back().get());
  }
  if (options.eval.eval_strategy != "no") BestModelRule(options.best).check_metric(names_of_metrics(evaluators));
  const bool from_model = !found || inputs.adapter;  // an adapter's checkpoint holds no frozen weights
  if (from_model) on_all_ranks(*comm, [&] { check_weights(*inputs.decoder, inputs.model_dir); });

  // What can be refused has been: only now is anything of an earlier run replaced.
  if (!found && options.save.overwrite_output_dir) discard_results(options.save, *store, *comm);
  const auto log = open_log(options, plan, comm->rank());
  const fs::path heartbeat_file = fs::path(options.save.output_dir) / "diagnostics" / "heartbeat";
  log_process_start(*log, heartbeat_file, found ? found->step() : 0);
  std::optional<Heartbeat> heartbeat;
  if (first) heartbeat.emplace(heartbeat_file);
  if (first)
    base::write_text_atomically(fs::path(options.save.output_dir) / "run.ini", config::to_ini(options));

  TrainState state;
  if (from_model) engine.load_parameters(*model::open_model_weights(inputs.model_dir));
  if (found) {
    state = restore(*found, engine, *optimizer, *log, *comm);
    set_others_aside(found->step(), place, options.save, *store);
    forget_lost_best_model(state, place, *store, *comm);
    if (!has_same_schedule_value(found->environment(), identity, "best_model")) state.best = {};
    if (!has_same_schedule_value(found->environment(), identity, "early_stopping")) state.best.evaluations_without_gain = 0;
    found.reset();  // open files would keep its bytes after save_total_limit has removed it
  } else {
    if (inputs.adapter) start_adapter(*inputs.adapter, static_cast<uint64_t>(options.data.seed), engine, *comm);
    state.optimizer_scalars = optimizer->scalars();
  }

  log->table("sft-dist", start_table(options, plan, *inputs.train, inputs.eval, engine, memory, *comm,
                                     topology, device, threads));
  log->event(resumes ? "resumed" : "started", state.step,
             nlohmann::json{{"world_size", comm->size()}, {"threads_per_rank", threads}}.dump());

  RunRequests requests({.output_dir = options.save.output_dir,
                        .max_run_minutes = options.runtime.max_run_minutes,
                        .save_on_interval_minutes = options.save.save_on_interval_minutes});
  TimeAccount account({.output_dir = options.save.output_dir,
                       .hosts = hosts,
                       .mean_minutes_between_failures = options.runtime.mean_minutes_between_failures},
                      *comm, timers, *log);
  Trainer trainer(
      {*comm, *loader, engine, *optimizer, *schedule, evaluators, *store, *log, signals, requests, watchdog,
       timers, account},
      {.plan = plan,
       .logging = options.logging,
       .eval = options.eval,
       .best = options.best,
       .save = options.save,
       .max_grad_norm = options.optimizer.max_grad_norm,
       .max_non_finite_steps = options.optimizer.max_non_finite_steps,
       .skip_spike_zscore = options.optimizer.skip_spike_zscore,
       .average_tokens_across_devices = options.loss.average_tokens_across_devices,
       .router_aux_loss_coef = inputs.router_aux_loss_coef,
       .check_replicas_steps = options.runtime.check_replicas_steps,
       .trl_compat = options.runtime.trl_compat,
       .resumed_step = place == checkpoint::Place::kOwnName ? std::optional(state.step) : std::nullopt,
       .identity = identity,
       .model_part = inputs.adapter ? checkpoint::ModelPart::kAdapter : checkpoint::ModelPart::kWhole,
       .side_files = std::move(inputs.side_files)});
  return trainer.run(state);
}

}  // namespace sft::train
