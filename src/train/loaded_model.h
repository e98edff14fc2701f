// A model folder, or a PEFT adapter's with the model it belongs to, in memory and ready to run.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "sft/base/timer.h"
#include "sft/engine/engine.h"
#include "sft/model/adapter.h"
#include "sft/parallel/communicator.h"

namespace sft::train {

struct LoadedModel {
  std::filesystem::path model_dir;  // with config.json
  std::string config_json;
  std::optional<model::AdapterSpec> adapter;
  std::unique_ptr<model::Decoder> decoder;
  std::unique_ptr<base::PhaseTimers> timers;
  std::unique_ptr<engine::Engine> engine;  // fp32, on the CPU
};

// Collective. Error(kInvalidData).
LoadedModel load_model(const std::filesystem::path& dir, parallel::Communicator& comm);

}  // namespace sft::train
