#include "sft/train/spike.h"

#include <cmath>

namespace sft::train {
namespace {

Spike measure(const std::vector<double>& norms, double zscore) {
  const auto n = static_cast<double>(norms.size());
  double sum = 0, squares = 0;
  for (const double norm : norms) sum += norm;
  const double mean = sum / n;
  for (const double norm : norms) squares += (norm - mean) * (norm - mean);
  const double deviation = std::sqrt(squares / (n - 1));
  return {.mean = mean, .deviation = deviation, .limit = mean + zscore * deviation};
}

}  // namespace

std::optional<Spike> SpikeRule::take(double grad_norm, SpikeHistory& history) const {
  if (!zscore_) return std::nullopt;
  if (history.norms.size() >= kShortestHistory) {
    const Spike spike = measure(history.norms, *zscore_);
    if (grad_norm > spike.limit && history.in_row < kMostInRow) {
      ++history.in_row;
      ++history.total;
      return spike;
    }
    if (grad_norm > spike.limit) history.norms.clear();
  }
  history.in_row = 0;
  history.norms.push_back(grad_norm);
  if (history.norms.size() > kLongestHistory) history.norms.erase(history.norms.begin());
  return std::nullopt;
}

}  // namespace sft::train
