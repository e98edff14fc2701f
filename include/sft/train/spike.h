// Updates that are not made because their gradient is far larger than those before it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace sft::train {

// Part of a run's state.
struct SpikeHistory {
  std::vector<double> norms;  // gradient norms of the last updates that were made, oldest first
  int64_t in_row = 0;         // spikes since the last update
  int64_t total = 0;
};

// What a spike was measured against.
struct Spike {
  double mean = 0, deviation = 0;  // of the history
  double limit = 0;                // mean + skip_spike_zscore * deviation
};

// skip_spike_zscore. g_1 ... g_n are the gradient norms, before clipping, of the last n updates that were
// made; a gradient norm g is a spike when n >= 20 and
//
//   g > mean + zscore * deviation    mean = sum(g_i) / n    deviation = sqrt(sum((g_i - mean)^2) / (n - 1))
//
// with n at most 100. A spike does not enter the history. After ten in a row it is a new level and no spike:
// the update is made and a new history begins with it, so that no run skips for ever.
//
// The norm alone decides: it measures what the update would do to the weights, while a high loss may be a
// rare but good row. All ranks have the same norm, bit for bit.
class SpikeRule {
 public:
  static constexpr std::size_t kLongestHistory = 100, kShortestHistory = 20;
  static constexpr int64_t kMostInRow = 10;

  // zscore unset: nothing is a spike, and no history is kept.
  explicit SpikeRule(std::optional<double> zscore) : zscore_(zscore) {}

  // Local. Takes a finite gradient norm into account; returns what makes it a spike, or nothing: then the
  // update is to be made.
  std::optional<Spike> take(double grad_norm, SpikeHistory& history) const;

 private:
  std::optional<double> zscore_;
};

}  // namespace sft::train
