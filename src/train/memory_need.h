// What a run needs of memory before its first activation, and whether its ranks may have that.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "sft/config/options.h"
#include "sft/engine/engine.h"
#include "sft/memory/limits.h"
#include "sft/optim/optimizer.h"
#include "sft/parallel/communicator.h"

namespace sft::train {

// Bytes a rank holds for the whole run. Exact; activations, which depend on the rows, come on top.
struct MemoryNeed {
  int64_t parameters = 0, gradients = 0, optimizer = 0;
  int64_t copy = 0;  // of what it writes of a checkpoint, with async_save
  int64_t total() const { return parameters + gradients + optimizer + copy; }
};

MemoryNeed memory_need(const engine::Engine& engine, optim::Optimizer& optimizer,
                       const config::SaveOptions& save, int world_size);
std::string to_text(const MemoryNeed& need);  // "539 MB = parameters 135 + gradients 135 + optimizer 269"

struct RankMemory {
  std::string host;
  int64_t need = 0;
  std::vector<memory::Limit> limits = {};
};

void to_json(nlohmann::json& json, const RankMemory& rank);
void from_json(const nlohmann::json& json, RankMemory& rank);

// What the ranks under one limit of a host need together.
struct MemoryUse {
  std::string host, of;
  int ranks = 0;
  int64_t need = 0, limit = 0;
};
std::vector<MemoryUse> uses_of(const std::vector<RankMemory>& ranks);

inline constexpr const char* kMemoryRemedy =
    "ask for more (Slurm: --mem), put fewer ranks on a host, each with more threads, or take use_peft or "
    "optim = adafactor";

// Which ranks need more than a limit lets them have together, and how much that is; empty if none do.
std::string over_limit(const std::vector<RankMemory>& ranks);

// Collective. The kernel ends without a word who takes more than it may have: Error(kOutOfMemory) instead, on
// all ranks, before the memory is touched.
void check_memory(const MemoryNeed& need, const std::string& host, parallel::Communicator& comm);

}  // namespace sft::train
