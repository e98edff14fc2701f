// Qwen 2, 2.5 and 3: Llama with biases on q, k and v (Qwen 2) or norms on q and k (Qwen 3), and windows in
// the upper layers where asked for.
#include "model/families/family.h"

namespace sft::model {
namespace {

bool from_layer(int64_t layer, int64_t first) {
  return layer >= first;
}

DecoderSpec read_common(const ConfigReader& config, int64_t head_dim) {
  DecoderSpec spec = read_sizes(config, {.vocab_size = 151936,
                                         .hidden_size = 4096,
                                         .intermediate_size = 22016,
                                         .num_hidden_layers = 32,
                                         .num_attention_heads = 32,
                                         .num_key_value_heads = 32,
                                         .head_dim = head_dim,
                                         .max_position_embeddings = 32768});
  spec.norm_kind = ops::NormKind::kRmsNorm;
  spec.norm_eps = config.positive_number("rms_norm_eps", 1e-6);
  read_rope(config, spec);
  const bool windows = config.flag("use_sliding_window", false) &&
                       (config.has("sliding_window") || !config.contains("sliding_window"));
  const int64_t first = windows ? config.integer("max_window_layers").value_or(28) : spec.num_hidden_layers;
  read_layer_types(config, spec, &from_layer, first);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  spec.activation = activation_named(config, "hidden_act", "silu");
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  spec.padding_idx = padding_index(config, std::nullopt, spec.vocab_size);
  return spec;
}

DecoderSpec read_qwen2(const ConfigReader& config) {
  DecoderSpec spec = read_common(config, 0);
  spec.attention_bias = true;
  return spec;
}

DecoderSpec read_qwen3(const ConfigReader& config) {
  DecoderSpec spec = read_common(config, 128);
  spec.attention_bias = spec.attention_out_bias = config.flag("attention_bias", false);
  spec.qk_norm = QkNorm::kPerHead;
  return spec;
}

}  // namespace

const Family& qwen2_family() {
  static const Family kFamily{"qwen2", "model.", &read_qwen2, llama_names()};
  return kFamily;
}

const Family& qwen3_family() {
  static const Family kFamily{"qwen3", "model.", &read_qwen3, llama_names()};
  return kFamily;
}

}  // namespace sft::model
