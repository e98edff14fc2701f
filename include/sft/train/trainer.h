// The training loop.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sft/base/error.h"
#include "sft/base/timer.h"
#include "sft/base/watchdog.h"
#include "sft/checkpoint/checkpoint.h"
#include "sft/config/options.h"
#include "sft/data/loader.h"
#include "sft/engine/engine.h"
#include "sft/metrics/log.h"
#include "sft/metrics/throughput.h"
#include "sft/optim/optimizer.h"
#include "sft/optim/schedule.h"
#include "sft/parallel/communicator.h"
#include "sft/train/best_model.h"
#include "sft/train/evaluator.h"
#include "sft/train/plan.h"
#include "sft/train/run_requests.h"
#include "sft/train/saver.h"
#include "sft/train/spike.h"
#include "sft/train/stop_signals.h"
#include "sft/train/train_state.h"

namespace sft::train {

class TimeAccount;

// What the loop works with. Everything outlives the trainer.
struct TrainerParts {
  parallel::Communicator& comm;
  data::DataLoader& loader;
  engine::Engine& engine;
  optim::Optimizer& optimizer;
  const optim::Schedule& schedule;
  std::vector<Evaluator*> evaluators;  // one for each evaluation set
  checkpoint::Store& checkpoints;
  metrics::TrainLog& log;
  const StopSignals& signals;
  RunRequests& requests;
  base::Watchdog& watchdog;
  base::PhaseTimers& timers;
  TimeAccount& account;
};

struct TrainerOptions {
  RunPlan plan;
  config::LoggingOptions logging;
  config::EvalOptions eval;
  config::BestOptions best;
  config::SaveOptions save;
  double max_grad_norm = 1.0;
  int64_t max_non_finite_steps = 10;
  std::optional<double> skip_spike_zscore;
  bool average_tokens_across_devices = true;  // false: the mean of the ranks' own means
  double router_aux_loss_coef = 0;   // of the mean of the micro-batches' load-balancing losses; 0: none
  int64_t check_replicas_steps = 0;  // 0: never
  bool trl_compat = false;
  std::optional<int64_t> resumed_step;           // the checkpoint in output_dir that the run goes on from
  std::string identity;                          // run_identity()
  checkpoint::ModelPart model_part = checkpoint::ModelPart::kWhole;
  std::vector<checkpoint::SideFile> side_files;  // config.json, tokenizer, run.ini
};

class Trainer {
 public:
  Trainer(const TrainerParts& parts, TrainerOptions options);

  // Collective. Trains from `state`, whose parameters and optimizer state are already in place, to the end or
  // until asked to stop. kDone: final model written; or stopped for good, checkpoint written. kRequeue: stopped on
  // request, checkpoint written.
  // Error(kNonFinite) on all ranks after max_non_finite_steps skipped steps in a row.
  base::ExitCode run(TrainState state);

 private:
  // Sums over all ranks' parts of a window.
  struct WindowCounts {
    int64_t num_targets = 0, num_first_labels = 0;
    int64_t num_tokens = 0;  // as logged
    int64_t num_micro_batches = 0;  // that hold tokens
    bool stop_requested = false, final_stop = false;  // final: not to be run again
    bool save_requested = false;
    bool is_writing = false;  // a checkpoint, in the background
    metrics::StepWork work = {}, own_work = {};  // own: of this rank alone
  };

  base::ExitCode train(TrainState& state);
  WindowCounts count(const data::Window& window);
  bool left_out_by_trl(const data::Window& window) const;
  // What this rank's sum of the loss is multiplied by; the products of all ranks add up to the step's loss.
  double loss_scale(const data::Window& window, const WindowCounts& counts) const;
  double aux_scale(const WindowCounts& counts) const;
  void update(TrainState& state, const engine::StepMetrics& metrics, double learning_rate);
  void skip_non_finite(TrainState& state, const data::Window& window, const engine::StepMetrics& metrics);
  void advance(TrainState& state, const data::Window& window, const WindowCounts& counts) const;
  void log_step(TrainState& state, double loss, const engine::StepMetrics& metrics, double learning_rate,
                bool epoch_ended);
  // The entry of the steps since the last one.
  void log_window(TrainState& state, double loss, const engine::StepMetrics& metrics, double learning_rate);
  void log_first_forward(const TrainState& state);  // once
  metrics::Values evaluate(const TrainState& state);
  // Evaluates; true when the model is the best so far.
  bool evaluate_for_best(TrainState& state);
  void save(TrainState& state);
  checkpoint::Contents contents(const TrainState& state, bool with_optimizer) const;
  int64_t rows_up_to(const data::Cursor& cursor) const;  // of all epochs
  base::ExitCode finish(TrainState& state);
  // False: there is none that can be read, and the weights stay as they are.
  bool load_best_model(const TrainState& state);
  base::ExitCode save_and_leave(TrainState& state, bool final_stop = false);
  std::filesystem::path checkpoint_path(int64_t step) const;
  bool is_last_step(const TrainState& state) const { return state.step >= options_.plan.max_steps; }
  bool finished(const TrainState& state) const { return is_last_step(state) || best_rule_.stops(state.best); }

  TrainerParts parts_;
  TrainerOptions options_;
  metrics::ModelWork model_work_;
  Trigger log_trigger_, eval_trigger_, save_trigger_;
  BestModelRule best_rule_;
  SpikeRule spike_rule_;
  StopVote stop_vote_;
  Saver saver_;
  int64_t first_step_ = 0, first_num_tokens_ = 0, first_row_ = 0;  // of this process
  double started_ = 0;                             // monotonic seconds
  bool has_begun_ = false;
  // Since the last log entry.
  double log_started_ = 0;
  int64_t log_num_tokens_ = 0;
  double log_flops_ = 0;
};

}  // namespace sft::train
