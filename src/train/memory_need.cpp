#include "memory_need.h"

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "sft/base/error.h"

namespace sft::memory {
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Limit, of, bytes)
}

namespace sft::train {

void to_json(nlohmann::json& json, const RankMemory& rank) {
  json = {{"host", rank.host}, {"need", rank.need}, {"limits", rank.limits}};
}

void from_json(const nlohmann::json& json, RankMemory& rank) {
  rank = {json.at("host"), json.at("need"), json.at("limits")};
}

MemoryNeed memory_need(const engine::Engine& engine, optim::Optimizer& optimizer,
                       const config::SaveOptions& save, int world_size) {
  MemoryNeed need;
  const auto bytes_of = [](const at::Tensor& tensor) { return static_cast<int64_t>(tensor.nbytes()); };
  int64_t trained = 0;
  for (const engine::ParameterBlock& block : engine.blocks()) {
    trained += bytes_of(block.parameters());
    need.gradients += bytes_of(block.gradients());
  }
  need.parameters = trained + engine.frozen_bytes();
  for (const optim::RangeState& range : optimizer.states()) {
    for (const at::Tensor& tensor : range.tensors) need.optimizer += bytes_of(tensor);
    for (const optim::TensorState& tensor : range.of_tensors) need.optimizer += bytes_of(tensor.data);
  }
  if (save.async_save) need.copy = (trained + (save.save_only_model ? 0 : need.optimizer)) / world_size;
  return need;
}

std::string to_text(const MemoryNeed& need) {
  const auto mega = [](int64_t bytes) { return static_cast<double>(bytes) / 1e6; };
  std::string text =
      fmt::format("{:.0f} MB = parameters {:.0f} + gradients {:.0f} + optimizer {:.0f}", mega(need.total()),
                  mega(need.parameters), mega(need.gradients), mega(need.optimizer));
  if (need.copy > 0)
    text += fmt::format(" + copy for checkpoints {:.0f} (from the first on)", mega(need.copy));
  return text;
}

std::vector<MemoryUse> uses_of(const std::vector<RankMemory>& ranks) {
  std::map<std::pair<std::string, std::string>, MemoryUse> uses;  // of (host, limit)
  for (const RankMemory& rank : ranks) {
    for (const memory::Limit& limit : rank.limits) {
      MemoryUse& use = uses[{rank.host, limit.of}];
      use = {rank.host, limit.of, use.ranks + 1, use.need + rank.need, limit.bytes};
    }
  }
  std::vector<MemoryUse> result;
  for (auto& [where, use] : uses) result.push_back(std::move(use));
  return result;
}

std::string over_limit(const std::vector<RankMemory>& ranks) {
  std::string text;
  for (const MemoryUse& use : uses_of(ranks)) {
    if (use.need <= use.limit) continue;
    text += fmt::format("{}{} on {} gives {} rank{} {:.0f} MB, and {:.0f} MB are needed",
                        text.empty() ? "" : "; ", use.of, use.host, use.ranks, use.ranks == 1 ? "" : "s",
                        static_cast<double>(use.limit) / 1e6, static_cast<double>(use.need) / 1e6);
  }
  return text;
}

void check_memory(const MemoryNeed& need, const std::string& host, parallel::Communicator& comm) {
  const RankMemory mine{host, need.total(), memory::limits()};
  std::vector<RankMemory> ranks;
  for (const std::string& text : comm.all_gather_bytes(nlohmann::json(mine).dump()))
    ranks.push_back(nlohmann::json::parse(text).get<RankMemory>());
  const std::string over = over_limit(ranks);
  if (over.empty()) return;
  throw base::Error(base::ExitCode::kOutOfMemory,
                    fmt::format("not enough memory: {} (each rank {}, and activations on top): {}", over,
                                to_text(need), kMemoryRemedy),
                    base::SeenBy::kAllRanks);
}

}  // namespace sft::train
