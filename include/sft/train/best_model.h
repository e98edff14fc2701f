// The best evaluation so far: what to keep, what to load at the end, when to stop early.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sft/config/options.h"
#include "sft/metrics/log.h"

namespace sft::train {

// Part of a run's state. -1: none yet.
struct BestModel {
  int64_t step = -1;                     // after which the metric was best
  double metric = 0;                     // its value there
  int64_t checkpoint_step = -1;          // newest checkpoint that was made at a best step
  int64_t evaluations_without_gain = 0;  // in a row, as early_stopping_threshold measures gain
};

// transformers' Trainer._determine_best_metric and EarlyStoppingCallback. All Local.
class BestModelRule {
 public:
  explicit BestModelRule(const config::BestOptions& options);

  // Error(kConfig), the same on all ranks, when an evaluation with values of these names has no such metric; it
  // names those it has.
  void check_metric(const std::vector<std::string>& names) const;
  // Takes an evaluation into account, whose names passed the check. True: the metric is strictly better than ever
  // before (a value that is not finite never is). Without a metric: false.
  bool take(const metrics::Values& values, int64_t step, BestModel& best) const;
  // Whether early_stopping_patience is used up.
  bool stops(const BestModel& best) const;
  const std::string& metric() const { return metric_; }  // with eval_; empty: none
  bool greater_is_better() const { return greater_is_better_; }

 private:
  bool is_better(double value, double than) const { return greater_is_better_ ? value > than : value < than; }

  config::BestOptions options_;
  std::string metric_;
  bool greater_is_better_;
};

}  // namespace sft::train
