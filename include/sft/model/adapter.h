// Low-rank adapters (LoRA, DoRA) as data, and PEFT's adapter_config.json.
//
// A targeted linear W gains two small matrices: y = W x + b + s B A dropout(x), A [r, in], B [out, r], s = alpha / r (rslora:
// alpha / sqrt(r)). DoRA multiplies each output of W + s B A by m / ||W + s B A||, the row's norm, which counts as a constant.
// Sources: Hu et al., "LoRA", 2021; Kalajdzievski, "rsLoRA", 2023; Liu et al., "DoRA", 2024; PEFT 0.21 where they leave a choice.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sft/model/spec.h"
#include "sft/model/weights.h"

namespace sft::model {

// kKaiming: A uniform in +-1/sqrt(in), B zero (PEFT's true); kGaussian: A normal with deviation 1/r, B zero; kRandom: both uniform, so
// that the adapter changes the model from the start (PEFT's false).
enum class AdapterInit { kKaiming, kGaussian, kRandom };

// Names of fields follow adapter_config.json.
struct AdapterSpec {
  int64_t r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0.0;
  bool use_rslora = false, use_dora = false;
  // A module is targeted when it is called so or its name ends in "." + one of these; or it is any linear but the output embedding.
  std::vector<std::string> target_modules;
  bool all_linear = false;
  std::string target_pattern;  // instead of target_modules: an ECMAScript regular expression over the whole name
  // Modules that are trained as a whole: their name, or that of a module around them, ends in one of these.
  std::vector<std::string> modules_to_save;

  double scale() const;
  bool targets(std::string_view module) const;  // by name; of all_linear: true
  bool saves(std::string_view module) const;
};

// PEFT's targets for this model_type where none are given; empty: PEFT has none, they must be given.
std::vector<std::string> default_target_modules(std::string_view model_type);

// Local. Error(kInvalidData) naming the file, the key, and what is supported.
AdapterSpec adapter_from_json(const std::string& text, const std::string& file_name);
// adapter_config.json as PEFT reads it, keys sorted. targets: what goes under target_modules.
std::string adapter_to_json(const AdapterSpec& adapter, const std::vector<std::string>& targets, const DecoderSpec& model,
                            const std::string& base_model_name_or_path);

inline constexpr const char* kAdapterConfigFile = "adapter_config.json";
inline constexpr const char* kAdapterWeightsFile = "adapter_model.safetensors";
// In front of a module's name in an adapter's files.
inline constexpr std::string_view kAdapterPrefix = "base_model.model.";

// Local. A folder with adapter_config.json and adapter_model.safetensors.
bool is_adapter_dir(const std::filesystem::path& dir);
std::unique_ptr<TensorSource> open_adapter_weights(const std::filesystem::path& dir);

}  // namespace sft::model
