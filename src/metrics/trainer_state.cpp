#include "metrics/trainer_state.h"

#include <cmath>

#include "sft/base/error.h"
#include "sft/base/json.h"

namespace sft::metrics {

using nlohmann::json;

namespace {

constexpr int64_t kMaxTrainerStateBytes = int64_t{1} << 30;

}  // namespace

nlohmann::ordered_json json_value(const std::string& key, double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  const bool is_count = key.starts_with("num_") && value == std::floor(value) && std::abs(value) <= 0x1p53;
  if (is_count) return static_cast<int64_t>(value);
  return value;
}

std::string trainer_state_json(const LogOptions& options, const TrainerProgress& progress,
                               const json& log_history) {
  const json trainer_control = {
      {"args",
       {{"should_epoch_stop", false},
        {"should_evaluate", false},
        {"should_log", false},
        {"should_save", true},
        {"should_training_stop", progress.step >= options.max_steps || progress.stopped_early}}},
      {"attributes", json::object()}};
  json callbacks = {{"TrainerControl", trainer_control}};
  if (options.early_stopping_patience) {
    callbacks["EarlyStoppingCallback"] = {
        {"args",
         {{"early_stopping_patience", *options.early_stopping_patience},
          {"early_stopping_threshold", options.early_stopping_threshold}}},
        {"attributes", {{"early_stopping_patience_counter", progress.evaluations_without_gain}}}};
  }
  const bool has_best = progress.best_step >= 0, has_checkpoint = !progress.best_model_checkpoint.empty();
  const json state = {
      {"best_global_step", has_best ? json(progress.best_step) : json()},
      {"best_metric", has_best ? json(progress.best_metric) : json()},
      {"best_model_checkpoint", has_checkpoint ? json(progress.best_model_checkpoint) : json()},
      {"epoch", progress.epoch},
      {"eval_steps", options.eval_steps},
      {"global_step", progress.step},
      {"is_hyper_param_search", false},
      {"is_local_process_zero", true},
      {"is_world_process_zero", true},
      {"log_history", log_history},
      {"logging_steps", options.logging_steps},
      {"max_steps", options.max_steps},
      {"num_input_tokens_seen", progress.num_tokens},
      {"num_train_epochs", static_cast<int64_t>(std::ceil(options.num_train_epochs))},
      {"save_steps", options.save_steps},
      {"stateful_callbacks", callbacks},
      {"total_flos", progress.total_flos},
      {"train_batch_size", options.train_batch_size},
      {"trial_name", nullptr},
      {"trial_params", nullptr},
  };
  return state.dump(2) + "\n";
}

json log_history_of(const std::string& trainer_state_json) {
  // Our own, and verified; an entry takes some 400 bytes, and a long run logs many.
  json state = base::parse_json(trainer_state_json, "trainer_state.json",
                                {.bytes = kMaxTrainerStateBytes, .values = kMaxTrainerStateBytes});
  const auto found = state.is_object() ? state.find("log_history") : state.end();
  if (found == state.end() || !found->is_array()) {
    base::fail(base::ExitCode::kInvalidData,
               "trainer_state.json has no list log_history: the checkpoint is damaged");
  }
  return *found;
}

}  // namespace sft::metrics
