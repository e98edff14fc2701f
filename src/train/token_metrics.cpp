#include "sft/train/token_metrics.h"

#include <algorithm>

namespace sft::train {

void TokenMetrics::add(std::span<const engine::TokenSums> micro_batches, bool trl_compat) {
  for (const engine::TokenSums& sums : micro_batches) {
    const double share = trl_compat ? std::max(1.0, sums.num_targets) : 1.0;
    weight += trl_compat ? 1.0 : sums.num_targets;
    accuracy_sum += sums.num_right / share;
    entropy_sum += sums.entropy / share;
  }
}

metrics::Values TokenMetrics::values(const std::string& prefix) const {
  const double divisor = weight > 0 ? weight : 1.0;
  return {{prefix + "entropy", entropy_sum / divisor},
          {prefix + "mean_token_accuracy", accuracy_sum / divisor}};
}

}  // namespace sft::train
