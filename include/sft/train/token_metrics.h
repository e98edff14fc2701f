// mean_token_accuracy and entropy of several micro-batches, as TRL names them.
#pragma once

#include <span>
#include <string>

#include "sft/engine/engine.h"
#include "sft/metrics/log.h"

namespace sft::train {

struct TokenMetrics {
  double weight = 0, accuracy_sum = 0, entropy_sum = 0;

  // Sums over all ranks, one for each micro-batch. A target weighs 1, whichever micro-batch it is in;
  // trl_compat: a micro-batch weighs 1, whatever its targets (0 for both when it has none).
  void add(std::span<const engine::TokenSums> micro_batches, bool trl_compat);
  // <prefix>entropy and <prefix>mean_token_accuracy: means by weight, 0 where nothing was added.
  metrics::Values values(const std::string& prefix = "") const;
};

}  // namespace sft::train
