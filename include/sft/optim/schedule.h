// Learning-rate schedules of transformers' optimization.py, by name.
#pragma once

#include <cstdint>
#include <functional>

#include "sft/config/options.h"

namespace sft::optim {

class Schedule {
 public:
  // Local. max_steps: optimizer steps of the whole run. Error(kConfig) for an unknown name, unknown or missing lr_scheduler_kwargs.
  Schedule(const config::ScheduleOptions& options, double learning_rate, int64_t max_steps);

  // Learning rate used by the step made after `step` steps are done (0-based).
  double at(int64_t step) const { return learning_rate_ * factor_(step); }
  int64_t warmup_steps() const { return warmup_steps_; }

 private:
  double learning_rate_;
  int64_t warmup_steps_;
  std::function<double(int64_t)> factor_;
};

}  // namespace sft::optim
