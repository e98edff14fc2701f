#include "sft/model/spec.h"

#include <nlohmann/json.hpp>

#include "model/families/family.h"
#include "sft/base/error.h"
#include "sft/base/json.h"

namespace sft::model {

using base::ExitCode;

DecoderSpec spec_from_config_json(const std::string& text, const std::string& file_name) {
  const nlohmann::json json = base::parse_json(text, file_name);
  const ConfigReader config(json, file_name);
  const std::string model_type = config.text("model_type", "");
  std::string known;
  for (const Family* family : all_families()) {
    known += (known.empty() ? "" : ", ") + std::string(family->model_type);
    if (family->model_type != model_type) continue;
    if (config.has("quantization_config")) config.unsupported("quantization_config", "unquantized weights");
    DecoderSpec spec = family->read_config(config);
    spec.model_type = model_type;
    return spec;
  }
  config.unsupported("model_type", known);
}

ops::Activation activation_named(const ConfigReader& config, const char* key, const std::string& fallback) {
  const std::string name = config.text(key, fallback);
  if (name == "relu") return ops::Activation::kRelu;
  if (name == "gelu") return ops::Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return ops::Activation::kGeluTanh;
  if (name == "silu" || name == "swish") return ops::Activation::kSilu;
  config.unsupported(key, "relu, gelu, gelu_new, gelu_pytorch_tanh, silu, swish");
}

int64_t divided(const ConfigReader& config, const char* size_key, int64_t size, const char* parts_key,
                int64_t parts) {
  if (size % parts != 0) {
    base::fail(ExitCode::kInvalidData, "{}: {} = {} is not a multiple of {} = {}", config.file_name(),
               size_key, size, parts_key, parts);
  }
  return size / parts;
}

std::optional<int64_t> padding_index(const ConfigReader& config, std::optional<int64_t> fallback,
                                     int64_t vocab_size) {
  // A null pad_token_id means none; only an absent one means the family's default.
  const std::optional<int64_t> id =
      config.contains("pad_token_id") ? config.integer("pad_token_id") : fallback;
  if (!id) return std::nullopt;
  if (*id >= vocab_size || *id < -vocab_size)
    config.unsupported("pad_token_id", "a token id below vocab_size");
  return *id < 0 ? *id + vocab_size : *id;
}

}  // namespace sft::model
