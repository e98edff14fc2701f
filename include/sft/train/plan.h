// From options, data set and world size to the numbers a run consists of.
#pragma once

#include <cstdint>
#include <string>

#include "sft/config/options.h"
#include "sft/data/loader.h"
#include "sft/data/sampler.h"

namespace sft::train {

struct RunPlan {
  data::BatchLayout layout;  // this run's micro-batch, world and accumulation
  int64_t micro_batch_tokens = 0;  // 0: micro-batches are cut by rows
  int64_t max_steps = 0;
  int64_t steps_per_epoch = 0;
  double num_train_epochs = 0;                                // what max_steps comes to
  int64_t logging_steps = 0, eval_steps = 0, save_steps = 0;  // resolved; 0 where the strategy is not "steps"
};

// Local. num_rows: usable rows; `step` and `cursor`: where the run goes on, for num_train_epochs counts rows, of which
// earlier steps may have taken more or fewer than this plan's (allow_batch_change). Error(kConfig), the same on all
// ranks, when global_batch_size cannot be reached at this world size; the message names the values that can.
RunPlan make_plan(const config::Options& options, int64_t num_rows, int64_t world_size, int64_t step = 0,
                  const data::Cursor& cursor = {});

// Local. How this rank reads the training set.
data::LoaderOptions loader_options_of(const config::DataOptions& options, const RunPlan& plan, int64_t rank);

// When something periodic is due: "no" (and what is none of the following), every `steps` steps, or at the
// end of every epoch; by steps also at the step that is said to be the last; not before `delay` steps or
// epochs.
class Trigger {
 public:
  Trigger(const std::string& strategy, int64_t steps, double delay = 0)
      : steps_(strategy == "steps" ? steps : 0), epochs_(strategy == "epoch"), delay_(delay) {}
  bool due(int64_t step, double epoch, bool epoch_ended, bool is_last_step = false) const {
    if (steps_ > 0) return (step % steps_ == 0 || is_last_step) && delay_ <= static_cast<double>(step);
    return epochs_ && epoch_ended && delay_ <= epoch;
  }

 private:
  int64_t steps_;
  bool epochs_;
  double delay_;
};

}  // namespace sft::train
