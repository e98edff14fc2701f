// Mistral: Llama with attention in a sliding window.
#include "model/families/family.h"

namespace sft::model {
namespace {

DecoderSpec read_config(const ConfigReader& config) {
  DecoderSpec spec = read_sizes(config, {.vocab_size = 32000,
                                         .hidden_size = 4096,
                                         .intermediate_size = 14336,
                                         .num_hidden_layers = 32,
                                         .num_attention_heads = 32,
                                         .num_key_value_heads = 8,
                                         .max_position_embeddings = 131072});
  spec.norm_kind = ops::NormKind::kRmsNorm;
  spec.norm_eps = config.positive_number("rms_norm_eps", 1e-6);
  read_rope(config, spec);
  read_uniform_window(config, spec, 4096);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  spec.activation = activation_named(config, "hidden_act", "silu");
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  spec.padding_idx = padding_index(config, std::nullopt, spec.vocab_size);
  return spec;
}

}  // namespace

const Family& mistral_family() {
  static const Family kFamily{"mistral", "model.", &read_config, llama_names()};
  return kFamily;
}

}  // namespace sft::model
