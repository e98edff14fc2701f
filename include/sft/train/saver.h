// When the checkpoints of a run are complete, and what becomes of the run when one cannot be written.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "sft/base/timer.h"
#include "sft/base/watchdog.h"
#include "sft/checkpoint/checkpoint.h"
#include "sft/metrics/log.h"
#include "sft/parallel/communicator.h"
#include "sft/train/train_state.h"

namespace sft::train {

class TimeAccount;

// One save at a time, in the foreground or in the background. A save that fails is given up by all ranks and
// logged (event checkpoint_failed), and the run goes on; when several in a row have failed, the run ends.
class Saver {
 public:
  // Everything outlives the saver. storage_failures_max: in a row; from 1.
  struct Parts {
    parallel::Communicator& comm;
    checkpoint::Store& checkpoints;
    metrics::TrainLog& log;
    base::Watchdog& watchdog;
    base::PhaseTimers& timers;
    TimeAccount& account;
  };
  // saved_step: the checkpoint in output_dir from which the run goes on.
  Saver(const Parts& parts, int64_t storage_failures_max, std::optional<int64_t> saved_step = {});

  // Local. The state as the checkpoint made of it holds it: one made after the best evaluation is the best
  // checkpoint.
  static TrainState as_saved(TrainState state);
  // Local, the same on all ranks: a checkpoint of that step was made, or is on its way.
  bool has(int64_t step) const;
  // Local, this rank's own: it is writing in the background.
  bool is_writing() const { return !parts_.checkpoints.ready(); }

  // Collective, all of them. `state` learns of a best checkpoint once it is committed.
  // Without another save under way. In the background: returns as soon as the contents are copied.
  void save(TrainState& state, const checkpoint::Contents& contents, bool in_background);
  // Takes a save under way one stage further; to be called when no rank is_writing().
  void advance(TrainState& state);
  // Waits for a save under way.
  void finish(TrainState& state);
  // After any of these: Error(kStorage) on all ranks when storage_failures_max saves in a row have failed.
  void check_storage() const;
  // For a run that ends with it: Error(kStorage) on all ranks when it fails.
  void save_last(TrainState& state, const checkpoint::Contents& contents);

 private:
  struct Pending {
    int64_t step = 0;
    bool is_best = false, in_background = false;
    double stall_seconds = 0;  // in which training waited for it
  };

  // Counts the action's time as waiting for the pending save, and takes its result.
  void settle(TrainState& state, const std::function<std::optional<checkpoint::SaveReport>()>& action);
  void committed(TrainState& state, const checkpoint::SaveReport& report);
  void log_failure(const checkpoint::SaveFailed& failure);

  Parts parts_;
  int64_t storage_failures_max_;
  std::optional<Pending> pending_;
  std::optional<int64_t> saved_step_;
  int64_t failures_in_row_ = 0;
  std::string last_failure_;
};

}  // namespace sft::train
