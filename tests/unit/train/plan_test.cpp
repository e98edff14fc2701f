#include "sft/train/plan.h"

#include <gtest/gtest.h>

#include "sft/base/error.h"

namespace sft::train {
namespace plan_test {

config::Options options(int64_t micro_batch, int64_t accumulation) {
  config::Options result;
  result.batch.per_device_train_batch_size = micro_batch;
  result.batch.gradient_accumulation_steps = accumulation;
  return result;
}

std::string message_of(const config::Options& opts, int64_t rows, int64_t world_size) {
  try {
    make_plan(opts, rows, world_size);
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kConfig);
    EXPECT_EQ(error.seen_by(), base::SeenBy::kAllRanks);
    return error.what();
  }
  return "";
}

TEST(Plan, CountsStepsAsTransformersDoes) {
  config::Options opts = options(2, 3);
  opts.schedule.num_train_epochs = 2;
  const RunPlan plan = make_plan(opts, 25, 2);  // 7 micro-steps an epoch, windows of 3, 3, 1
  EXPECT_EQ(plan.steps_per_epoch, 3);
  EXPECT_EQ(plan.max_steps, 6);
  opts.schedule.num_train_epochs = 0.5;
  EXPECT_EQ(make_plan(opts, 25, 2).max_steps, 2);
  opts.schedule.max_steps = 7;
  EXPECT_EQ(make_plan(opts, 25, 2).max_steps, 7);
  EXPECT_EQ(make_plan(opts, 25, 2).num_train_epochs, 3);
}

TEST(Plan, EveryEvaluationThatMayBeBestHasACheckpointWhereStepsAreFractions) {
  config::Options opts = options(1, 1);
  opts.schedule.max_steps = 25;
  opts.eval.eval_strategy = opts.save.save_strategy = "steps";
  opts.eval.eval_steps = 0.1;
  opts.save.save_steps = 0.2;
  EXPECT_EQ(make_plan(opts, 100, 1).save_steps, 5);
  opts.best.load_best_model_at_end = true;
  const RunPlan plan = make_plan(opts, 100, 1);
  EXPECT_EQ(plan.eval_steps, 3);
  EXPECT_EQ(plan.save_steps, 6);
}

TEST(Plan, EpochsAreCountedInRowsAlsoAfterStepsOfAnotherSize) {
  config::Options opts = options(2, 3);
  opts.schedule.num_train_epochs = 3;
  // 25 rows, 2 ranks: 7 micro-steps an epoch, 3 steps. In the middle of the second epoch, at micro-step 3 or 6.
  EXPECT_EQ(make_plan(opts, 25, 2, 4, {.epoch = 1, .position = 12}).max_steps, 9);
  EXPECT_EQ(make_plan(opts, 25, 2, 5, {.epoch = 1, .position = 24}).max_steps, 9);
  EXPECT_EQ(make_plan(opts, 25, 2, 3, {.epoch = 1, .position = 0}).max_steps, 9);
  // Those steps were made with another accumulation.
  EXPECT_EQ(make_plan(opts, 25, 2, 9, {.epoch = 1, .position = 8}).max_steps, 9 + 2 + 3);
  EXPECT_EQ(make_plan(opts, 25, 2, 2, {.epoch = 2, .position = 0}).max_steps, 2 + 3);
  EXPECT_EQ(make_plan(opts, 25, 2, 2, {.epoch = 3, .position = 0}).max_steps, 2);
  opts.schedule.max_steps = 7;
  EXPECT_EQ(make_plan(opts, 25, 2, 2, {.epoch = 2, .position = 0}).max_steps, 7);
}

TEST(Plan, NoRowIsLeftOutWhereStepsOfAnotherSizeEndedInTheMiddleOfOne) {
  config::Options opts = options(20, 1);
  opts.schedule.num_train_epochs = 2;
  // 50 of 100 rows are left: windows of 20, 20 and 10, then five.
  EXPECT_EQ(make_plan(opts, 100, 1, 5, {.epoch = 0, .position = 50}).max_steps, 5 + 3 + 5);
  EXPECT_EQ(make_plan(opts, 100, 1, 6, {.epoch = 0, .position = 70}).max_steps, 6 + 2 + 5);
  opts.data.dataloader_drop_last = true;
  EXPECT_EQ(make_plan(opts, 100, 1, 5, {.epoch = 0, .position = 50}).max_steps, 5 + 2 + 5);
}

TEST(Plan, FractionsOfStepsAreRoundedUp) {
  config::Options opts = options(1, 1);
  opts.schedule.max_steps = 25;
  opts.logging.logging_steps = 0.1;
  opts.save.save_steps = 7;
  opts.eval.eval_strategy = "steps";
  const RunPlan plan = make_plan(opts, 100, 1);
  EXPECT_EQ(plan.logging_steps, 3);
  EXPECT_EQ(plan.eval_steps, 3);  // unset: as logging_steps
  EXPECT_EQ(plan.save_steps, 7);
}

TEST(Plan, GlobalBatchSizeFixesAccumulation) {
  config::Options opts = options(2, 99);
  opts.batch.global_batch_size = 12;
  EXPECT_EQ(make_plan(opts, 100, 3).layout.gradient_accumulation_steps, 2);
  EXPECT_EQ(make_plan(opts, 100, 1).layout.gradient_accumulation_steps, 6);
  EXPECT_NE(message_of(opts, 100, 4).find("per_device_train_batch_size can be 1, 3"), std::string::npos);
  EXPECT_NE(message_of(opts, 100, 5).find("divides 12"), std::string::npos);
}

TEST(Plan, RefusesDropLastWithNothingLeft) {
  config::Options opts = options(8, 1);
  opts.data.dataloader_drop_last = true;
  EXPECT_NE(message_of(opts, 15, 2).find("dataloader_drop_last"), std::string::npos);
}

TEST(Trigger, FiresByStepsOrByEpochs) {
  const Trigger steps("steps", 5), epochs("epoch", 0), never("no", 5);
  EXPECT_TRUE(steps.due(10, 0.5, false));
  EXPECT_FALSE(steps.due(11, 1, true));
  EXPECT_TRUE(steps.due(11, 1, true, /*is_last_step=*/true));
  EXPECT_TRUE(epochs.due(11, 1, true));
  EXPECT_FALSE(epochs.due(10, 0.9, false, true));
  EXPECT_FALSE(never.due(5, 1, true, true));
}

TEST(Trigger, WaitsForItsDelay) {
  const Trigger steps("steps", 5, 10), epochs("epoch", 0, 2);
  EXPECT_FALSE(steps.due(5, 3, false));
  EXPECT_TRUE(steps.due(10, 3, false));
  EXPECT_FALSE(steps.due(9, 3, false, true));
  EXPECT_FALSE(epochs.due(50, 1, true));
  EXPECT_TRUE(epochs.due(100, 2, true));
}

}  // namespace plan_test
}  // namespace sft::train
