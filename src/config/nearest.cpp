#include "nearest.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace sft::config {
namespace {

// Levenshtein distance, one row of the table at a time.
std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substitution = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitution});
    }
  }
  return row.back();
}

std::string nearest_name(const std::string& name, const std::vector<std::string>& names) {
  std::string best;
  std::size_t best_distance = name.size() / 3 + 2;
  for (const std::string& candidate : names) {
    const std::size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace

std::string meant_name(const std::string& name, const std::vector<std::string>& names) {
  constexpr std::pair<const char*, const char*> kShort[] = {
      {"lr", "learning_rate"},           {"batch_size", "per_device_train_batch_size"},
      {"r", "lora_r"},                   {"train_batch_size", "per_device_train_batch_size"},
      {"epochs", "num_train_epochs"},    {"eval_batch_size", "per_device_eval_batch_size"},
      {"num_epochs", "num_train_epochs"}};
  for (const auto& [said, meant] : kShort) {
    if (name == said) return meant;
  }
  return nearest_name(name, names);
}

}  // namespace sft::config
