#include "sft/train/train_state.h"

#include <nlohmann/json.hpp>

#include "sft/base/error.h"
#include "sft/base/json.h"

namespace sft::train {
namespace {

// One list of fields for both directions.
template <typename State, typename Visitor>
void visit(State& state, Visitor&& field) {
  field("step", state.step);
  field("epoch_index", state.cursor.epoch);
  field("epoch_position", state.cursor.position);
  field("epoch_group_rows", state.cursor.group_rows);
  field("epoch", state.epoch);
  field("optimizer_steps", state.optimizer_steps);
  field("optimizer_scalars", state.optimizer_scalars);
  field("num_tokens", state.num_tokens);
  field("total_flos", state.total_flos);
  field("non_finite_in_row", state.non_finite_in_row);
  field("non_finite_total", state.non_finite_total);
  field("spike_norms", state.spikes.norms);
  field("spikes_in_row", state.spikes.in_row);
  field("spikes_total", state.spikes.total);
  field("loss_sum", state.loss_sum);
  field("window_loss_sum", state.window_loss_sum);
  field("window_steps", state.window_steps);
  field("best_step", state.best.step);
  field("best_metric", state.best.metric);
  field("best_checkpoint_step", state.best.checkpoint_step);
  field("evaluations_without_gain", state.best.evaluations_without_gain);
  field("window_token_weight", state.window_tokens.weight);
  field("window_accuracy_sum", state.window_tokens.accuracy_sum);
  field("window_entropy_sum", state.window_tokens.entropy_sum);
  field("window_aux_loss_sum", state.window_aux_loss.sum);
  field("window_aux_loss_count", state.window_aux_loss.count);
}

}  // namespace

std::string TrainState::to_json() const {
  nlohmann::json object;
  visit(*this, [&](const char* name, const auto& value) { object[name] = value; });
  return object.dump();
}

TrainState TrainState::from_json(const std::string& text) {
  const nlohmann::json object = base::parse_json(text, "train_state");
  TrainState state;
  visit(state, [&](const char* name, auto& value) {
    using Value = std::decay_t<decltype(value)>;
    try {
      value = object.at(name).template get<Value>();
    } catch (const nlohmann::json::exception&) {
      base::fail(base::ExitCode::kInvalidData, "the checkpoint's train_state has no {} '{}'",
                 std::is_arithmetic_v<Value> ? "number" : "list of numbers", name);
    }
  });
  return state;
}

}  // namespace sft::train
