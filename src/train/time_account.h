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
// The ledger keeps or drops whole spans, so one must end at each step that a restart may go on from.
class TimeAccount {
 public:
  // References outlive the account.
  TimeAccount(TimeAccountOptions options, parallel::Communicator& comm, base::PhaseTimers& timers,
              metrics::TrainLog& log);

  void begin(int64_t step);                                // Local. The steps begin after this one
  void add_work(double flops) { window_.flops += flops; }  // Local. Of this rank
  void log_entry(int64_t step);  // Collective: one reduction. Names ranks that are behind
  void cut(int64_t step);        // Local. A span ends: the state was copied for a save in the background
  // Local. So does one where a save is complete, `step` being where the run is by now. stall_seconds: what
  // the save cost training; the first is followed by advice.
  void committed(int64_t step, double stall_seconds);
  void end(int64_t step);        // Local. Ledger: log, event `goodput`, output_dir/goodput.json

 private:
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
