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

struct Near {
  std::string name;
  std::size_t distance;
};

// The first of the nearest that is nearer than `near` is.
Near nearer(Near near, const std::string& name, const std::vector<std::string>& names) {
  for (const std::string& candidate : names) {
    const std::size_t distance = edit_distance(name, candidate);
    if (distance < near.distance) near = {candidate, distance};
  }
  return near;
}

}  // namespace

std::string meant_name(const std::string& name, const std::vector<std::string>& names, const std::vector<std::string>& ignored) {
  constexpr std::pair<const char*, const char*> kShort[] = {
      {"lr", "learning_rate"},           {"batch_size", "per_device_train_batch_size"},
      {"r", "lora_r"},                   {"train_batch_size", "per_device_train_batch_size"},
      {"epochs", "num_train_epochs"},    {"eval_batch_size", "per_device_eval_batch_size"},
      {"num_epochs", "num_train_epochs"}, {"warmup", "warmup_steps"},
      {"lora_rank", "lora_r"},           {"rank", "lora_r"},
      {"alpha", "lora_alpha"},           {"dropout", "lora_dropout"},
      {"use_4bit", "load_in_4bit"},      {"task_type", "lora_task_type"}};
  for (const auto& [said, meant] : kShort) {
    if (name == said) return meant;
  }
  constexpr std::size_t kSlip = 1;
  const Near option = nearer({"", name.size() / 3 + 2}, name, names);
  const Near slip = nearer({"", std::min(option.distance, kSlip + 1)}, name, ignored);
  return slip.name.empty() ? option.name : slip.name;
}

}  // namespace sft::config
