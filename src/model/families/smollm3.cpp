// SmolLM3: Llama in which some layers have no positions, and only those may have windows.
#include "model/families/family.h"

namespace sft::model {
namespace {

// transformers' no_rope_layers: 1 where the layer has positions.
void read_positions(const ConfigReader& config, DecoderSpec& spec) {
  const int64_t interval = config.positive("no_rope_layer_interval", 4);
  const std::vector<double> given = config.numbers("no_rope_layers");
  if (config.has("no_rope_layers") && given.size() < spec.layers.size()) {
    config.unsupported("no_rope_layers", "one entry for each of num_hidden_layers layers");
  }
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    const bool rotates = given.empty() ? (static_cast<int64_t>(i) + 1) % interval != 0 : given[i] != 0.0;
    if (!rotates) spec.layers[i].rope = std::nullopt;
  }
}

DecoderSpec read_config(const ConfigReader& config) {
  DecoderSpec spec = read_sizes(config, {.vocab_size = 128256,
                                         .hidden_size = 2048,
                                         .intermediate_size = 11008,
                                         .num_hidden_layers = 36,
                                         .num_attention_heads = 16,
                                         .num_key_value_heads = 4,
                                         .max_position_embeddings = 32768});
  spec.norm_kind = ops::NormKind::kRmsNorm;
  spec.norm_eps = config.positive_number("rms_norm_eps", 1e-6);
  read_rope(config, spec, {.theta = 2'000'000.0});
  read_layer_types(config, spec, nullptr);
  read_positions(config, spec);
  if (!config.has("layer_types") && config.flag("use_sliding_window", false) &&
      config.has("sliding_window")) {
    for (LayerSpec& layer : spec.layers) {
      if (!layer.rope) layer.sliding_window = config.positive("sliding_window", 0);
    }
  }
  spec.attention_bias = spec.attention_out_bias = config.flag("attention_bias", false);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  spec.mlp_bias = config.flag("mlp_bias", false);
  spec.activation = activation_named(config, "hidden_act", "silu");
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", true);
  spec.padding_idx = padding_index(config, 128004, spec.vocab_size);
  return spec;
}

}  // namespace

const Family& smollm3_family() {
  static const Family kFamily{"smollm3", "model.", &read_config, llama_names()};
  return kFamily;
}

}  // namespace sft::model
