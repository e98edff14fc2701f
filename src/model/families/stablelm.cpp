// StableLM: LayerNorm, partial rotary positions, gated MLP; in the 12B model attention and MLP side by side
// behind one norm.
#include "model/families/family.h"

namespace sft::model {
namespace {

DecoderSpec read_config(const ConfigReader& config) {
  config.require_flag("qk_layernorm", false);
  DecoderSpec spec = read_sizes(config, {.vocab_size = 50304,
                                         .hidden_size = 2560,
                                         .intermediate_size = 6912,
                                         .num_hidden_layers = 32,
                                         .num_attention_heads = 32,
                                         .num_key_value_heads = 32,
                                         .max_position_embeddings = 4096});
  spec.norm_eps = config.positive_number("layer_norm_eps", 1e-5);
  read_rope(config, spec, {.partial_rotary_factor = 0.25, .can_be_partial = true});
  spec.parallel_residual = spec.shared_parallel_norm = config.flag("use_parallel_residual", false);
  spec.attention_bias = config.flag("use_qkv_bias", false);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  // transformers drops what the MLP adds and keeps what the attention adds: a distribution of its own.
  if (config.number("hidden_dropout", 0.0) != 0.0) config.unsupported("hidden_dropout", "0.0");
  spec.activation = activation_named(config, "hidden_act", "silu");
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  spec.padding_idx = padding_index(config, std::nullopt, spec.vocab_size);
  return spec;
}

}  // namespace

const Family& stablelm_family() {
  static const Family kFamily{"stablelm", "model.", &read_config, llama_names()};
  return kFamily;
}

}  // namespace sft::model
