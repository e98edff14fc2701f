#include "sft/train/run_identity.h"

#include <ATen/Version.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "sft/base/error.h"
#include "sft/base/json.h"
#include "sft/base/log.h"
#include "sft/train/best_model.h"

namespace sft::train {
namespace {

using nlohmann::json;

[[noreturn]] void refuse(const std::string& message) {
  throw base::Error(base::ExitCode::kConfig, message, base::SeenBy::kAllRanks);
}

json value_or_null(const json& object, const char* section, const std::string& key) {
  if (!object.contains(section) || !object[section].is_object()) return nullptr;
  return object[section].value(key, json());
}

// Means of ranks are others when rows fall to others.
std::string loss_is_mean_of(const config::LossOptions& options, const data::BatchLayout& layout) {
  if (options.average_tokens_across_devices || layout.world_size == 1) return "targets";
  return fmt::format("{} ranks' means, {} rows dealt to each in turn", layout.world_size,
                     layout.micro_batch_size);
}

void check_global_batch(const json& saved, const RunPlan& plan, bool allow_batch_change) {
  const json before = value_or_null(saved, "run", "global_batch_size");
  const int64_t now = plan.layout.global_batch_size();
  if (before == now) return;
  const int64_t per_micro_step = plan.layout.micro_batch_size * plan.layout.world_size;
  const int64_t wanted = before.is_number_integer() ? before.get<int64_t>() : 0;
  if (allow_batch_change) {
    log::warning(
        "the global batch was {} rows before and is {} now (allow_batch_change = true): losses and schedule "
        "change with it",
        wanted, now);
    return;
  }
  const std::string remedy =
      wanted > 0 && wanted % per_micro_step == 0
          ? fmt::format("set gradient_accumulation_steps = {}", wanted / per_micro_step)
          : fmt::format("choose per_device_train_batch_size x gradient_accumulation_steps x {} ranks = {}",
                        plan.layout.world_size, wanted);
  refuse(
      fmt::format("the checkpoint was trained with a global batch of {} rows, this run has {} = {} per "
                  "device x {} accumulation x {} ranks; "
                  "{} (or global_batch_size = {}), or allow_batch_change = true",
                  wanted, now, plan.layout.micro_batch_size, plan.layout.gradient_accumulation_steps,
                  plan.layout.world_size, remedy, wanted));
}

// What the order of the rows depends on.
json row_identity(const config::Options& options, const data::DatasetInfo& dataset, int64_t num_rows) {
  json run;
  run["dataset_xxh3"] = dataset.content_xxh3;
  run["num_rows"] = num_rows;
  run["max_length"] = options.data.max_length ? json(*options.data.max_length) : json();
  run["seed"] = options.data.seed;
  run["data_seed"] = options.data.data_seed.value_or(options.data.seed);
  run["train_sampling_strategy"] = options.data.train_sampling_strategy;
  run["packing"] =
      options.data.packing ? json(options.data.packing_strategy + ", " + options.data.packing_scope) : json();
  run["shuffle_dataset"] = options.data.shuffle_dataset;
  run["dataloader_drop_last"] = options.data.dataloader_drop_last;
  run["trl_compat"] = options.runtime.trl_compat;
  return run;
}

}  // namespace

std::string run_identity(const config::Options& options, const RunPlan& plan,
                         const data::DatasetInfo& dataset, const model::DecoderSpec& spec,
                         const std::string& device, int threads_per_rank, const std::string& adapter,
                         const std::vector<std::string>& evaluation_sets) {
  json run = row_identity(options, dataset, plan.layout.num_rows);
  run.update(json{{"adapter", nullptr}, {"base_config_xxh3", nullptr}, {"base_weights_xxh3", nullptr}});
  if (!adapter.empty()) run.update(json::parse(adapter));
  run["model_type"] = spec.model_type;
  run["num_parameters"] = spec.num_parameters;
  run["global_batch_size"] = plan.layout.global_batch_size();
  run["optim"] = options.optimizer.optim;

  json schedule;
  schedule["learning_rate"] = options.optimizer.learning_rate;
  schedule["loss_type"] = options.loss.loss_type;
  schedule["label_smoothing_factor"] = options.loss.label_smoothing_factor;
  schedule["loss_is_mean_of"] = loss_is_mean_of(options.loss, plan.layout);
  schedule["neftune_noise_alpha"] = options.loss.neftune_noise_alpha.value_or(0);
  if (spec.mixture) {
    schedule["router_aux_loss_coef"] =
        options.loss.router_aux_loss_coef.value_or(spec.mixture->router_aux_loss_coef);
  }
  schedule["weight_decay"] = options.optimizer.weight_decay;
  schedule["adam_beta1"] = options.optimizer.adam_beta1;
  schedule["adam_beta2"] = options.optimizer.adam_beta2;
  schedule["adam_epsilon"] = options.optimizer.adam_epsilon;
  schedule["optim_args"] = options.optimizer.optim_args;
  schedule["max_grad_norm"] = options.optimizer.max_grad_norm;
  schedule["skip_spike_zscore"] =
      options.optimizer.skip_spike_zscore ? json(*options.optimizer.skip_spike_zscore) : json();
  schedule["max_steps"] = plan.max_steps;
  schedule["lr_scheduler_type"] = options.schedule.lr_scheduler_type;
  schedule["lr_scheduler_kwargs"] = options.schedule.lr_scheduler_kwargs;
  schedule["warmup_steps"] = options.schedule.warmup_steps;

  const BestModelRule best(options.best);
  schedule["best_model"] = nullptr;
  if (!best.metric().empty()) {
    schedule["best_model"] = {{"metric", best.metric()},
                              {"greater_is_better", best.greater_is_better()},
                              {"evaluation_sets_xxh3", evaluation_sets}};
  }
  schedule["early_stopping"] = nullptr;
  if (options.best.early_stopping_patience) {
    schedule["early_stopping"] = {{"patience", *options.best.early_stopping_patience},
                                  {"threshold", options.best.early_stopping_threshold}};
  }

  json bits;
  bits["world_size"] = plan.layout.world_size;
  bits["per_device_train_batch_size"] = plan.layout.micro_batch_size;
  const auto& tokens = options.batch.micro_batch_tokens;
  bits["micro_batch_tokens"] = tokens ? json(*tokens) : json();
  bits["threads_per_rank"] = threads_per_rank;
  bits["device"] = device;
  bits["bf16"] = options.precision.bf16;
  bits["cpu_capability"] = at::get_cpu_capability();
  bits["sft_dist"] = SFT_VERSION;
  return json{{"run", run}, {"schedule", schedule}, {"bits", bits}}.dump();
}

bool has_same_schedule_value(const std::string& saved_identity, const std::string& identity, const char* key) {
  const json saved = base::parse_json(saved_identity, "the checkpoint's environment");
  return value_or_null(saved, "schedule", key) == json::parse(identity)["schedule"][key];
}

bool has_same_rows(const std::string& saved_identity, const config::Options& options,
                   const data::DatasetInfo& dataset, int64_t num_rows) {
  const json saved = base::parse_json(saved_identity, "the checkpoint's environment");
  const json wanted = row_identity(options, dataset, num_rows);
  for (const auto& [key, value] : wanted.items()) {
    if (value_or_null(saved, "run", key) != value) return false;
  }
  return true;
}

void check_resumable(const std::string& saved_identity, const std::string& identity, const RunPlan& plan,
                     bool allow_batch_change) {
  const json saved = base::parse_json(saved_identity, "the checkpoint's environment");
  const json current = json::parse(identity);
  for (const auto& [key, value] : current["run"].items()) {
    if (key == "global_batch_size") continue;
    const json before = value_or_null(saved, "run", key);
    if (before != value && key.starts_with("base_") && !before.is_null() && !value.is_null()) {
      refuse(
          fmt::format("the checkpoint's adapter was trained on another base model than this run's "
                      "model_name_or_path: {} was {} "
                      "and is {}; name the model it was trained on",
                      key == "base_config_xxh3" ? "the hash of config.json" : "the hash of sampled weights",
                      log::printable(before.dump()), value.dump()));
    }
    if (before != value) {
      refuse(
          fmt::format("the checkpoint belongs to another run: {} was {} and is {} now; use the same value to "
                      "resume it, or start "
                      "afresh in another output_dir (the checkpoint's folder can be the model_name_or_path)",
                      key, log::printable(before.dump()), value.dump()));
    }
  }
  check_global_batch(saved, plan, allow_batch_change);
  for (const char* section : {"schedule", "bits"}) {
    for (const auto& [key, value] : current[section].items()) {
      const json before = value_or_null(saved, section, key);
      if (before == value) continue;
      log::warning("{} was {} in the checkpoint and is {} now: {}", key, log::printable(before.dump()),
                   value.dump(),
                   std::string(section) == "bits" ? "results agree within rounding, not bit for bit"
                                                  : "the new value is used from here on");
    }
  }
}

}  // namespace sft::train
