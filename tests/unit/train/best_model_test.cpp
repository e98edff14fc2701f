#include "sft/train/best_model.h"

#include <gtest/gtest.h>

#include <cmath>

#include "sft/base/error.h"

namespace sft::train {
namespace best_model_test {

// Step by step what transformers' EarlyStoppingCallback and _determine_best_metric do with these values.
struct Seen {
  double value;
  bool is_best;
  int64_t without_gain;
};

void expect_course(const config::BestOptions& options, const std::vector<Seen>& course) {
  const BestModelRule rule(options);
  BestModel best;
  int64_t step = 0;
  for (const Seen& seen : course) {
    step += 10;
    const metrics::Values values{
        {"eval_loss", seen.value}, {"eval_perplexity", seen.value}, {"eval_mean_token_accuracy", seen.value}};
    EXPECT_EQ(rule.take(values, step, best),
              seen.is_best)
        << step;
    EXPECT_EQ(best.evaluations_without_gain, seen.without_gain) << step;
    if (seen.is_best) {
      EXPECT_EQ(best.step, step);
      EXPECT_EQ(best.metric, seen.value);
    }
  }
}

TEST(BestModelRule, LossIsBestWhenSmall) {
  expect_course({.metric_for_best_model = "loss", .early_stopping_patience = 2},
                {{2.0, true, 0}, {1.5, true, 0}, {1.5, false, 1}, {1.6, false, 2}, {1.4, true, 0}});
}

TEST(BestModelRule, PerplexityIsBestWhenSmall) {
  expect_course({.metric_for_best_model = "perplexity"}, {{2.0, true, 0}, {2.5, false, 1}, {1.5, true, 0}});
}

TEST(BestModelRule, OtherMetricsAreBestWhenGreatUnlessSaid) {
  expect_course({.metric_for_best_model = "eval_mean_token_accuracy"},
                {{0.5, true, 0}, {0.4, false, 1}, {0.6, true, 0}});
  expect_course({.metric_for_best_model = "mean_token_accuracy", .greater_is_better = false},
                {{0.5, true, 0}, {0.4, true, 0}, {0.6, false, 1}});
}

// A better value that gains too little is the best all the same, and counts towards the patience.
TEST(BestModelRule, ThresholdDecidesWhatIsAGain) {
  expect_course(
      {.metric_for_best_model = "loss", .early_stopping_patience = 3, .early_stopping_threshold = 0.25},
      {{2.0, true, 0}, {1.75, true, 1}, {1.625, true, 2}, {1.0, true, 0}, {0.875, true, 1}});
}

TEST(BestModelRule, ValuesThatAreNotFiniteAreNeverBest) {
  const double nan = std::nan(""), infinity = HUGE_VAL;
  expect_course({.metric_for_best_model = "loss"},
                {{nan, false, 1}, {2.0, true, 0}, {nan, false, 1}, {-infinity, false, 2}});
}

TEST(BestModelRule, StopsWhenPatienceIsUsedUp) {
  const BestModelRule rule({.metric_for_best_model = "loss", .early_stopping_patience = 2}),
      patient({.metric_for_best_model = "loss"});
  EXPECT_FALSE(rule.stops({.evaluations_without_gain = 1}));
  EXPECT_TRUE(rule.stops({.evaluations_without_gain = 2}));
  EXPECT_FALSE(patient.stops({.evaluations_without_gain = 100}));
}

TEST(BestModelRule, NamesWhatTheEvaluationHas) {
  const BestModelRule rule({.metric_for_best_model = "bleu"}), loads({.load_best_model_at_end = true}),
      none(config::BestOptions{});
  BestModel best;
  try {
    rule.check_metric({"eval_loss", "eval_perplexity"});
    FAIL() << "accepted";
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kConfig);
    EXPECT_EQ(error.seen_by(), base::SeenBy::kAllRanks);
    EXPECT_NE(std::string(error.what()).find("eval_bleu, only eval_loss, eval_perplexity"), std::string::npos)
        << error.what();
  }
  EXPECT_EQ(loads.metric(), "eval_loss");
  EXPECT_NO_THROW(loads.check_metric({"eval_perplexity", "eval_loss"}));
  EXPECT_NO_THROW(none.check_metric({}));
  EXPECT_FALSE(none.take({{"eval_loss", 1}}, 1, best));
  EXPECT_EQ(best.step, -1);
}

}  // namespace best_model_test
}  // namespace sft::train
