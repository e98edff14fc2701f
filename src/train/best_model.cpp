#include "sft/train/best_model.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <fmt/ranges.h>

#include "sft/base/error.h"
#include "sft/config/parse.h"

namespace sft::train {

BestModelRule::BestModelRule(const config::BestOptions& options)
    : options_(options), metric_(config::metric_for_best_model(options)) {
  const bool less_is_better = metric_.ends_with("loss") || metric_.ends_with("perplexity");
  greater_is_better_ = options.greater_is_better.value_or(!less_is_better);
  if (!metric_.empty() && !metric_.starts_with("eval_")) metric_ = "eval_" + metric_;
}

void BestModelRule::check_metric(const std::vector<std::string>& names) const {
  if (metric_.empty() || std::find(names.begin(), names.end(), metric_) != names.end()) return;
  throw base::Error(
      base::ExitCode::kConfig,
      fmt::format("metric_for_best_model: an evaluation of this run has no {}, only {}; name one of these", metric_,
                  fmt::join(names, ", ")),
      base::SeenBy::kAllRanks);
}

bool BestModelRule::take(const metrics::Values& values, int64_t step, BestModel& best) const {
  if (metric_.empty()) return false;
  const auto found =
      std::find_if(values.begin(), values.end(), [&](const auto& v) { return v.first == metric_; });
  if (found == values.end()) base::fail(base::ExitCode::kInternal, "the evaluation has no {}", metric_);
  const double value = found->second;
  const bool better = std::isfinite(value) && (best.step < 0 || is_better(value, best.metric));
  const bool gain =
      better && (best.step < 0 || std::abs(value - best.metric) > options_.early_stopping_threshold);
  best.evaluations_without_gain = gain ? 0 : best.evaluations_without_gain + 1;
  if (better) {
    best.step = step;
    best.metric = value;
  }
  return better;
}

bool BestModelRule::stops(const BestModel& best) const {
  return options_.early_stopping_patience &&
         best.evaluations_without_gain >= *options_.early_stopping_patience;
}

}  // namespace sft::train
