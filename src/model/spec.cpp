#include "sft/model/spec.h"

#include <nlohmann/json.hpp>

#include "model/families/family.h"
#include "sft/base/error.h"
#include "sft/base/json.h"

namespace sft::model {

using base::ExitCode;

DecoderSpec spec_from_config_json(const std::string& text, const std::string& file_name) {
  const nlohmann::json json = base::parse_json(text, file_name, base::kConfigLimits);
  const ConfigReader config(json, file_name);
  const std::string model_type = config.text("model_type", "");
  std::string known;
  for (const Family* family : all_families()) {
    known += (known.empty() ? "" : ", ") + std::string(family->model_type);
    if (family->model_type != model_type) continue;
    if (config.has("quantization_config")) config.unsupported("quantization_config", "unquantized weights");
    config.require_flag("is_causal", true);
    for (const char* key : {"per_layer_config", "transformers_weights"}) {
      if (config.has(key)) config.unsupported(key, "null");
    }
    DecoderSpec spec = family->read_config(config);
    spec.model_type = model_type;
    spec.layers.resize(static_cast<std::size_t>(spec.num_hidden_layers));
    return spec;
  }
  config.unsupported("model_type", known);
}

}  // namespace sft::model
