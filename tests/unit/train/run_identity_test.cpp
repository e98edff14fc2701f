#include "sft/train/run_identity.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "sft/base/error.h"

namespace sft::train {
namespace run_identity_test {

struct RunSettings {
  config::Options options;
  data::DatasetInfo dataset;
  model::DecoderSpec spec;
  int64_t world_size = 2;
  int threads = 1;

  RunSettings() {
    options.batch.per_device_train_batch_size = 3;
    options.batch.gradient_accumulation_steps = 1;
    dataset.content_xxh3 = "abc";
    spec.model_type = "llama";
  }
  RunPlan plan() const { return make_plan(options, 100, world_size); }
  std::string identity() const { return run_identity(options, plan(), dataset, spec, "cpu", threads); }
};

std::string refusal(const RunSettings& before, const RunSettings& now, bool allow_batch_change = false) {
  try {
    check_resumable(before.identity(), now.identity(), now.plan(), allow_batch_change);
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kConfig);
    EXPECT_EQ(error.seen_by(), base::SeenBy::kAllRanks);
    return error.what();
  }
  return "";
}

TEST(RunIdentity, SameRunAndChangedScheduleOrThreadsMayResume) {
  RunSettings before, now;
  EXPECT_EQ(refusal(before, now), "");
  now.options.optimizer.learning_rate *= 2;
  now.threads = 7;
  EXPECT_EQ(refusal(before, now), "");
}

TEST(RunIdentity, BestModelsAreComparedOnlyByOneRule) {
  RunSettings settings;
  const auto with = [&](const std::string& metric, const std::vector<std::string>& sets) {
    settings.options.best.metric_for_best_model = metric;
    return run_identity(settings.options, settings.plan(), settings.dataset, settings.spec, "cpu", 1, "", sets);
  };
  const std::string loss = with("loss", {"a", "b"});
  EXPECT_TRUE(has_same_schedule_value(loss, with("eval_loss", {"a", "b"}), "best_model"));
  EXPECT_FALSE(has_same_schedule_value(loss, with("mean_token_accuracy", {"a", "b"}), "best_model"));
  EXPECT_FALSE(has_same_schedule_value(loss, with("loss", {"a", "c"}), "best_model"));
  EXPECT_FALSE(has_same_schedule_value(loss, with("", {"a", "b"}), "best_model"));
  EXPECT_TRUE(has_same_schedule_value(with("", {"a"}), with("", {}), "best_model"));
}

TEST(RunIdentity, MicroBatchesMayBeCutOtherwise) {
  RunSettings before, now;
  now.options.batch.micro_batch_tokens = 512;
  EXPECT_EQ(refusal(before, now), "");
  EXPECT_EQ(refusal(now, before), "");
  EXPECT_NE(before.identity(), now.identity()) << "the bits depend on it";
}

// A change of these is one of the loss, not of its last bits.
TEST(RunIdentity, MeansOfRanksDependOnHowRowsAreDealt) {
  const auto schedule = [](bool over_all, int64_t world_size, int64_t batch) {
    RunSettings run;
    run.options.loss.average_tokens_across_devices = over_all;
    run.options.batch.per_device_train_batch_size = batch;
    run.world_size = world_size;
    run.options.schedule.max_steps = 10;
    return nlohmann::json::parse(run.identity()).at("schedule");
  };
  EXPECT_EQ(schedule(true, 2, 3), schedule(true, 3, 2));
  EXPECT_NE(schedule(false, 2, 3), schedule(false, 3, 3));
  EXPECT_NE(schedule(false, 2, 3), schedule(false, 2, 2));
  EXPECT_EQ(schedule(false, 1, 6), schedule(true, 1, 6));
}

TEST(RunIdentity, OtherDataOrderOrModelIsRefusedByName) {
  const RunSettings before;
  RunSettings data, seed, model;
  data.dataset.content_xxh3 = "def";
  seed.options.data.seed = 43;
  model.spec.model_type = "opt";
  EXPECT_NE(refusal(before, data).find("dataset_xxh3"), std::string::npos);
  EXPECT_NE(refusal(before, seed).find("seed"), std::string::npos);
  EXPECT_NE(refusal(before, model).find("model_type"), std::string::npos);
}

TEST(RunIdentity, AnotherWorldSizeNeedsTheSameGlobalBatch) {
  const RunSettings before;  // 3 x 1 x 2
  RunSettings one_rank;
  one_rank.world_size = 1;
  EXPECT_NE(refusal(before, one_rank).find("gradient_accumulation_steps = 2"), std::string::npos);
  EXPECT_EQ(refusal(before, one_rank, true), "");
  one_rank.options.batch.gradient_accumulation_steps = 2;
  EXPECT_EQ(refusal(before, one_rank), "");
}

}  // namespace run_identity_test
}  // namespace sft::train
