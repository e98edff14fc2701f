// What a run is about to do, for people.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "dataset_checks.h"
#include "memory_need.h"
#include "sft/config/options.h"
#include "sft/data/dataset.h"
#include "sft/engine/engine.h"
#include "sft/parallel/environment.h"
#include "sft/train/plan.h"

namespace sft::train {

std::vector<std::pair<std::string, std::string>> start_table(
    const config::Options& options, const RunPlan& plan, const data::TokenDataset& train,
    const std::vector<EvaluationSet>& eval, const engine::Engine& engine, const MemoryNeed& memory,
    const parallel::Communicator& comm, const parallel::Topology& topology, const std::string& device,
    int threads);

}  // namespace sft::train
