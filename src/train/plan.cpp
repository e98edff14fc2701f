#include "sft/train/plan.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "sft/base/checked.h"
#include "sft/base/error.h"
#include "sft/config/parse.h"

namespace sft::train {
namespace {

int64_t accumulation_steps(const config::BatchOptions& batch, int64_t world_size) {
  if (!batch.global_batch_size) return batch.gradient_accumulation_steps;
  const int64_t global = *batch.global_batch_size;
  const int64_t per_micro_step = batch.per_device_train_batch_size * world_size;
  if (global % per_micro_step == 0) return global / per_micro_step;

  std::vector<int64_t> possible;
  for (int64_t size = 1; size * world_size <= global; ++size) {
    if (global % (size * world_size) == 0) possible.push_back(size);
  }
  const std::string remedy = possible.empty()
                                 ? fmt::format("use a number of ranks that divides {}", global)
                                 : fmt::format("with {} ranks, per_device_train_batch_size can be {}",
                                               world_size, fmt::join(possible, ", "));
  throw base::Error(
      base::ExitCode::kConfig,
      fmt::format(
          "global_batch_size = {} is not a multiple of per_device_train_batch_size x ranks = {} x {}; {}",
          global, batch.per_device_train_batch_size, world_size, remedy),
      base::SeenBy::kAllRanks);
}

// In steps of this layout.
int64_t steps_up_to(const data::Cursor& cursor, const data::BatchLayout& layout) {
  const int64_t steps_left = cursor.position == 0 ? layout.steps_per_epoch()
                                                  : base::ceil_div(layout.micro_steps_left(cursor.position),
                                                                   layout.gradient_accumulation_steps);
  return (cursor.epoch + 1) * layout.steps_per_epoch() - steps_left;
}

int64_t resolved(const std::string& strategy, double steps, int64_t max_steps) {
  return strategy == "steps" ? config::resolve_steps(steps, max_steps) : 0;
}

}  // namespace

RunPlan make_plan(const config::Options& options, int64_t num_rows, int64_t world_size, int64_t step,
                  const data::Cursor& cursor) {
  RunPlan plan;
  plan.layout = {.num_rows = num_rows,
                 .micro_batch_size = options.batch.per_device_train_batch_size,
                 .world_size = world_size,
                 .gradient_accumulation_steps = accumulation_steps(options.batch, world_size),
                 .drop_last = options.data.dataloader_drop_last,
                 .wrap_around = options.runtime.trl_compat};
  plan.micro_batch_tokens = options.batch.micro_batch_tokens.value_or(0);
  if (plan.layout.micro_steps_per_epoch() == 0) {
    throw base::Error(
        base::ExitCode::kConfig,
        fmt::format(
            "dataloader_drop_last = true leaves nothing to train on: {} rows are fewer than one micro-batch "
            "on "
            "each of {} ranks ({} rows); set it to false or use a smaller per_device_train_batch_size",
            num_rows, world_size, plan.layout.micro_batch_size * world_size),
        base::SeenBy::kAllRanks);
  }
  plan.steps_per_epoch = plan.layout.steps_per_epoch();
  const double steps_per_epoch = static_cast<double>(plan.steps_per_epoch);
  if (options.schedule.max_steps > 0) {
    plan.max_steps = options.schedule.max_steps;
    plan.num_train_epochs = std::ceil(static_cast<double>(plan.max_steps) / steps_per_epoch);
  } else {
    const auto all = static_cast<int64_t>(std::ceil(options.schedule.num_train_epochs * steps_per_epoch));
    plan.max_steps = step + std::max<int64_t>(0, all - steps_up_to(cursor, plan.layout));
    plan.num_train_epochs = options.schedule.num_train_epochs;
  }
  plan.logging_steps =
      resolved(options.logging.logging_strategy, options.logging.logging_steps, plan.max_steps);
  plan.eval_steps = resolved(options.eval.eval_strategy,
                             options.eval.eval_steps.value_or(options.logging.logging_steps), plan.max_steps);
  plan.save_steps = resolved(options.save.save_strategy, options.save.save_steps, plan.max_steps);
  if (options.best.load_best_model_at_end && plan.eval_steps > 0 && plan.save_steps > 0) {
    // Fractions that were multiples may not be any more, rounded to steps; the best model is to have a checkpoint.
    plan.save_steps = base::ceil_div(plan.save_steps, plan.eval_steps) * plan.eval_steps;
  }
  return plan;
}

data::LoaderOptions loader_options_of(const config::DataOptions& options, const RunPlan& plan, int64_t rank) {
  const std::string& name = options.train_sampling_strategy;
  const auto strategy = name == "sequential"        ? data::SamplingStrategy::kSequential
                        : name == "group_by_length" ? data::SamplingStrategy::kGroupByLength
                                                    : data::SamplingStrategy::kRandom;
  return {.layout = plan.layout,
          .micro_batch_tokens = plan.micro_batch_tokens,
          .rank = rank,
          .strategy = strategy,
          .seed = static_cast<uint64_t>(options.data_seed.value_or(options.seed))};
}

}  // namespace sft::train
