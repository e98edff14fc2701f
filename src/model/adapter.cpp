#include "sft/model/adapter.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <regex>

#include "sft/base/error.h"
#include "sft/base/json.h"
#include "sft/base/log.h"

namespace sft::model {
namespace {

using base::ExitCode;
using base::fail;
using nlohmann::json;

struct DefaultTargets {
  std::string_view model_type;
  std::vector<std::string> modules;
};

// PEFT 0.21, utils/constants.py, for the decoders among its models.
const std::vector<DefaultTargets>& default_targets() {
  static const std::vector<std::string> query_value{"q_proj", "v_proj"}, fused{"query_key_value"},
      c_attn{"c_attn"};
  static const std::vector<DefaultTargets> table{
      {"bloom", fused},
      {"falcon", fused},
      {"gemma", query_value},
      {"gemma2", query_value},
      {"gemma3_text", query_value},
      {"gpt2", c_attn},
      {"gpt_bigcode", c_attn},
      {"gpt_neo", query_value},
      {"gpt_neox", fused},
      {"gptj", query_value},
      {"llama", query_value},
      {"mistral", query_value},
      {"mixtral", query_value},
      {"opt", query_value},
      {"phi", {"q_proj", "v_proj", "fc1", "fc2"}},
      {"qwen2", query_value},
      {"qwen3", query_value},
      {"stablelm", query_value},
  };
  return table;
}

// What changes an adapter's result in a way that is not implemented, with the values that mean "off".
void refuse_unsupported(const json& config, const std::string& file) {
  for (const char* key :
       {"alpha_pattern", "rank_pattern", "layers_to_transform", "layers_pattern", "exclude_modules",
        "layer_replication", "target_parameters", "trainable_token_indices", "lora_bias", "use_qalora",
        "use_bdlora", "arrow_config", "kasa_config", "velora_config", "monteclora_config",
        "alora_invocation_tokens", "ensure_weight_tying"}) {
    if (!config.contains(key)) continue;
    const json& value = config[key];
    const bool off = value.is_null() || value == false || (value.is_structured() && value.empty());
    if (!off)
      fail(ExitCode::kInvalidData, "{}: {} = {} is not supported", file, key, log::printable(value.dump()));
  }
  if (config.value("peft_type", json()) != "LORA")
    fail(ExitCode::kInvalidData, "{}: peft_type is {}; sft-dist knows LORA", file,
         log::printable(config.value("peft_type", json()).dump()));
  const json init = config.value("init_lora_weights", json(true));
  if (init.is_string() && init != "gaussian" && init != "orthogonal" && init != "eva")
    fail(ExitCode::kInvalidData,
         "{}: init_lora_weights = {} stands for an adapter over a changed base model; convert it to plain "
         "LoRA with PEFT",
         file, log::printable(init.dump()));
  if (config.value("bias", json("none")) != "none")
    fail(ExitCode::kInvalidData, "{}: bias = {}: only none is supported", file,
         log::printable(config["bias"].dump()));
}

template <typename T>
T field(const json& config, const char* key, T fallback, const std::string& file) {
  if (!config.contains(key) || config[key].is_null()) return fallback;
  try {
    return config[key].get<T>();
  } catch (const json::exception&) {
    fail(ExitCode::kInvalidData, "{}: {} = {} has the wrong type", file, key,
         log::printable(config[key].dump()));
  }
}

bool ends_in_component(std::string_view module, std::string_view suffix) {
  return module == suffix || (module.size() > suffix.size() && module.ends_with(suffix) &&
                              module[module.size() - suffix.size() - 1] == '.');
}

}  // namespace

double AdapterSpec::scale() const {
  const auto rank = static_cast<double>(r);
  return lora_alpha / (use_rslora ? std::sqrt(rank) : rank);
}

bool AdapterSpec::targets(std::string_view module) const {
  if (all_linear) return true;
  if (!target_pattern.empty())
    return std::regex_match(module.begin(), module.end(), std::regex(target_pattern));
  return std::ranges::any_of(target_modules,
                             [&](const std::string& target) { return ends_in_component(module, target); });
}

bool AdapterSpec::saves(std::string_view module) const {
  for (std::string_view outer = module; !outer.empty();) {
    if (std::ranges::any_of(modules_to_save, [&](const std::string& name) { return outer.ends_with(name); }))
      return true;
    const auto dot = outer.rfind('.');
    outer = dot == std::string_view::npos ? std::string_view() : outer.substr(0, dot);
  }
  return false;
}

std::vector<std::string> default_target_modules(std::string_view model_type) {
  const auto& table = default_targets();
  const auto found = std::ranges::find(table, model_type, &DefaultTargets::model_type);
  return found == table.end() ? std::vector<std::string>() : found->modules;
}

AdapterSpec adapter_from_json(const std::string& text, const std::string& file) {
  const json config = base::parse_json(text, file, base::kConfigLimits);
  if (!config.is_object()) fail(ExitCode::kInvalidData, "{} is not a JSON object", file);
  refuse_unsupported(config, file);
  AdapterSpec adapter;
  adapter.r = field<int64_t>(config, "r", 8, file);
  adapter.lora_alpha = field<double>(config, "lora_alpha", 8, file);
  adapter.lora_dropout = field<double>(config, "lora_dropout", 0, file);
  adapter.use_rslora = field<bool>(config, "use_rslora", false, file);
  adapter.use_dora = field<bool>(config, "use_dora", false, file);
  if (adapter.r < 1) fail(ExitCode::kInvalidData, "{}: r = {} must be at least 1", file, adapter.r);
  if (adapter.lora_dropout < 0 || adapter.lora_dropout >= 1)
    fail(ExitCode::kInvalidData, "{}: lora_dropout = {} must be in [0, 1)", file, adapter.lora_dropout);
  adapter.modules_to_save = field<std::vector<std::string>>(config, "modules_to_save", {}, file);
  const json targets = config.value("target_modules", json());
  if (targets.is_string() && targets == "all-linear") {
    adapter.all_linear = true;
  } else if (targets.is_string()) {
    adapter.target_pattern = targets.get<std::string>();
    try {
      const std::regex checked(adapter.target_pattern);
    } catch (const std::regex_error&) {
      fail(ExitCode::kInvalidData,
           "{}: target_modules = {} is not a regular expression known here; give a list of names", file,
           log::printable(adapter.target_pattern));
    }
  } else {
    adapter.target_modules = field<std::vector<std::string>>(config, "target_modules", {}, file);
  }
  return adapter;
}

std::string adapter_to_json(const AdapterSpec& adapter, const std::vector<std::string>& targets,
                            const DecoderSpec& model, const std::string& base_model_name_or_path) {
  json config{{"peft_type", "LORA"},
              {"task_type", "CAUSAL_LM"},
              {"base_model_name_or_path", base_model_name_or_path},
              {"bias", "none"},
              {"fan_in_fan_out", model.transposed_linear},
              {"inference_mode", true},
              {"init_lora_weights", true},
              {"layers_pattern", nullptr},
              {"layers_to_transform", nullptr},
              {"lora_dropout", adapter.lora_dropout},
              {"modules_to_save", nullptr},
              {"r", adapter.r},
              {"revision", nullptr},
              {"use_dora", adapter.use_dora},
              {"use_rslora", adapter.use_rslora}};
  config["alpha_pattern"] = json::object();
  config["rank_pattern"] = json::object();
  const bool whole = std::trunc(adapter.lora_alpha) == adapter.lora_alpha;
  config["lora_alpha"] = whole ? json(static_cast<int64_t>(adapter.lora_alpha)) : json(adapter.lora_alpha);
  config["target_modules"] = adapter.target_pattern.empty() ? json(targets) : json(adapter.target_pattern);
  if (!adapter.modules_to_save.empty()) config["modules_to_save"] = adapter.modules_to_save;
  return config.dump(2) + "\n";
}

bool is_adapter_dir(const std::filesystem::path& dir) {
  return std::filesystem::exists(dir / kAdapterConfigFile);
}

std::unique_ptr<TensorSource> open_adapter_weights(const std::filesystem::path& dir) {
  const std::filesystem::path file = dir / kAdapterWeightsFile;
  if (!std::filesystem::exists(file))
    fail(ExitCode::kInvalidData, "{} has no {}: it is not an adapter in safetensors", dir.string(),
         kAdapterWeightsFile);
  return open_safetensors_files({file});
}

}  // namespace sft::model
