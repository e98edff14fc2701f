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

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RankMemory, host, need, limits)

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

std::string over_limit(const std::vector<RankMemory>& ranks) {
  struct Use {
    int64_t need = 0, bytes = 0;
    int ranks = 0;
  };
  std::map<std::pair<std::string, std::string>, Use> uses;  // of (host, limit)
  for (const RankMemory& rank : ranks) {
    for (const memory::Limit& limit : rank.limits) {
      Use& use = uses[{rank.host, limit.of}];
      use.need += rank.need;
      use.bytes = limit.bytes;
      ++use.ranks;
    }
  }
  std::string text;
  for (const auto& [where, use] : uses) {
    if (use.need <= use.bytes) continue;
    text +=
        fmt::format("{}{} on {} gives {} rank{} {:.0f} MB, and {:.0f} MB are needed",
                    text.empty() ? "" : "; ", where.second, where.first, use.ranks, use.ranks == 1 ? "" : "s",
                    static_cast<double>(use.bytes) / 1e6, static_cast<double>(use.need) / 1e6);
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
  throw base::Error(
      base::ExitCode::kOutOfMemory,
      fmt::format(
          "not enough memory: {} (each rank {}, and activations on top). Ask for more (Slurm: --mem), "
          "put fewer ranks on a host, each with more threads, or take use_peft or optim = adafactor",
          over, to_text(need)),
      base::SeenBy::kAllRanks);
}

}  // namespace sft::train
