// The parts of a run, for training (run.cpp, where they are made) and for measuring it (bench.cpp).
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adapter_setup.h"
#include "dataset_checks.h"
#include "sft/checkpoint/checkpoint.h"
#include "sft/config/options.h"
#include "sft/data/loader.h"
#include "sft/engine/engine.h"
#include "sft/model/decoder.h"
#include "sft/optim/optimizer.h"
#include "sft/parallel/environment.h"
#include "sft/train/plan.h"

namespace sft::train {

// What is read from files before anything is allocated.
struct Inputs {
  std::filesystem::path model_dir;
  std::string config_json;
  std::optional<AdapterPlan> adapter;
  std::string adapter_identity;
  std::unique_ptr<model::Decoder> decoder;
  std::unique_ptr<data::TokenDataset> train;
  std::vector<EvaluationSet> eval;
  std::vector<checkpoint::SideFile> side_files;
  double router_aux_loss_coef = 0;
};

// Local. Error(kInvalidData, kConfig).
Inputs read_inputs(const config::Options& options);
// Local. The optimizer works on the engine's buffers.
std::unique_ptr<optim::Optimizer> make_optimizer(const config::OptimizerOptions& options,
                                                 const engine::Engine& engine, int64_t warmup_steps);
// Local.
engine::EngineOptions engine_options(const config::Options& options, const std::string& device,
                                     const parallel::Topology& topology);
// Collective. First values of a new run's adapters.
void start_adapter(const AdapterPlan& plan, uint64_t seed, engine::Engine& engine,
                   parallel::Communicator& comm);

}  // namespace sft::train
