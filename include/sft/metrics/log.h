// What a run tells people and tools: start table, progress bar, console lines, trainer_log.jsonl, trainer_state.json, TensorBoard.
// Keys are Hugging Face's. Everything is Local; only rank 0 writes, on other ranks all calls do nothing (trainer_state is empty there).
//
// The table, entries and the bar go to stdout. trainer_log.jsonl is appended to, also by a resumed run, one write per line; numbers are
// the shortest that read back exactly; JSON has no NaN, so non-finite ones are the strings "NaN", "Infinity" and "-Infinity".
// A log that cannot be written any more (disk full) is warned about once and never stops a run.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sft::metrics {

using Values = std::vector<std::pair<std::string, double>>;  // in the order to show

struct LogOptions {
  int rank = 0;
  std::filesystem::path output_dir;
  std::string run_name;
  bool tensorboard = false;
  bool show_progress_bar = false;  // decided by the caller: terminal and not disable_tqdm
  int64_t max_steps = 0;
  // For trainer_state.json.
  int64_t train_batch_size = 0, logging_steps = 0, eval_steps = 0, save_steps = 0;
  double num_train_epochs = 0;
  std::optional<int64_t> early_stopping_patience = {};
  double early_stopping_threshold = 0;
};

// Where a run is, for trainer_state.json.
struct TrainerProgress {
  int64_t step = 0;
  double epoch = 0, total_flos = 0;
  int64_t num_tokens = 0;
  bool stopped_early = false;
  int64_t best_step = -1;             // -1: none
  double best_metric = 0;
  std::string best_model_checkpoint = {};  // empty: none
  int64_t evaluations_without_gain = 0;
};

class TrainLog {
 public:
  virtual ~TrainLog() = default;
  static std::unique_ptr<TrainLog> open(const LogOptions& options);  // Error(kStorage)

  virtual void table(const std::string& title, const std::vector<std::pair<std::string, std::string>>& rows) = 0;

  // After every step; cheap. Draws the bar at most ten times a second.
  virtual void progress(int64_t step, double loss, double learning_rate, double tokens_per_second) = 0;

  // A training or evaluation entry: console line, JSONL object {"event": event, "step", "epoch", "time" (Unix seconds), values...},
  // TensorBoard scalars (eval_<key> as eval/<key>, others as train/<key>), and log_history of trainer_state.json.
  // event: "train" | "eval" | "summary". Keys that begin with num_ are counts and written as whole numbers.
  virtual void entry(const std::string& event, int64_t step, double epoch, const Values& values) = 0;

  // JSONL only: checkpoint written, step skipped, resumed ... `details` is a JSON object whose keys follow "event", "step", "time".
  virtual void event(const std::string& name, int64_t step, const std::string& details) = 0;

  // transformers' trainer_state.json for this moment.
  virtual std::string trainer_state(const TrainerProgress& progress) const = 0;
  // Takes log_history from a checkpoint's trainer_state.json. Error(kInvalidData).
  virtual void restore(const std::string& trainer_state_json) = 0;
  virtual void flush() = 0;
};

}  // namespace sft::metrics
