// From the adapter options of a run to an adapter, and what identifies the base model under it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "sft/config/options.h"
#include "sft/model/adapter.h"
#include "sft/model/decoder.h"

namespace sft::train {

struct AdapterPlan {
  model::AdapterSpec spec;
  model::AdapterInit init = model::AdapterInit::kKaiming;
  std::filesystem::path start_from;  // folder of an adapter to go on from; empty: new values
};

// Local. "a, b" -> a and b.
std::vector<std::string> names_in(const std::string& text);

// Local. Nothing when use_peft is off. Error(kConfig, kInvalidData): no targets known for the model type, or
// an unusable adapter.
std::optional<AdapterPlan> plan_adapter(const config::AdapterOptions& options,
                                        const model::DecoderSpec& model);

// Local. adapter_config.json of what this run saves.
std::string adapter_config(const AdapterPlan& plan, const model::Decoder& decoder,
                           const std::string& model_name_or_path);

// Local. JSON object for run_identity(): the adapter's settings, and the base model as a hash of its
// config.json (without what does not change the model) and one over samples of every weight: up to 16
// stretches of 64 values, as fp32, evenly spread. It does not depend on how the weights are stored or when; a
// change that misses all samples is not seen.
std::string adapter_identity(const AdapterPlan& plan, const config::AdapterOptions& options,
                             const std::string& config_json, const model::Decoder& decoder,
                             const model::TensorSource& weights);

}  // namespace sft::train
