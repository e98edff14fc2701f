#include "sft/train/check_options.h"

#include <algorithm>

#include "sft/config/parse.h"
#include "sft/optim/optimizer.h"
#include "sft/optim/schedule.h"

namespace sft::train {

void check_options(const config::Options& options) {
  config::validate_for_training(options);
  const optim::Schedule schedule(options.schedule, options.optimizer.learning_rate,
                                 std::max<int64_t>(1, options.schedule.max_steps));
  optim::Optimizer::create(options.optimizer, {}, schedule.warmup_steps());
}

}  // namespace sft::train
