// Where this run's time goes: `timing` events, ranks that are behind, advice on saving, and the ledger of all
// starts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "sft/base/timer.h"
#include "sft/metrics/log.h"
#include "sft/parallel/communicator.h"
#include "stragglers.h"

namespace sft::train {

struct TimeAccountOptions {
  std::filesystem::path output_dir;
  std::vector<std::string> hosts;  // [world_size]
  std::optional<double> mean_minutes_between_failures;
};

// The one reader of the phase timers. Time is cut into spans: from one log entry, save or end to the next.
class TimeAccount {
 public:
  // References outlive the account.
  TimeAccount(TimeAccountOptions options, parallel::Communicator& comm, base::PhaseTimers& timers,
              metrics::TrainLog& log);

  void begin(int64_t step);                                // Local. The steps begin after this one
  void add_work(double flops) { window_.flops += flops; }  // Local. Of this rank
  void log_entry(int64_t step);  // Collective: one reduction. Names ranks that are behind
  void saved(int64_t step);      // Local. After each save; the first is followed by advice
  void end(int64_t step);        // Local. Ledger: log, event `goodput`, output_dir/goodput.json

 private:
  base::PhaseTimers::Seconds close_span(int64_t step);
  void advise(double save_seconds);

  TimeAccountOptions options_;
  parallel::Communicator& comm_;
  base::PhaseTimers& timers_;
  metrics::TrainLog& log_;
  StragglerWatch stragglers_;
  RankTimes window_;  // since the last log entry
  double span_started_ = 0;
  int64_t span_step_ = 0;
  double step_seconds_ = 0;  // of this process's steps, without evaluation and checkpoints
  int64_t steps_ = 0;
  bool advised_ = false;
};

}  // namespace sft::train
