// Llama: RMSNorm, rotary positions, grouped-query attention, gated MLP (also SmolLM2, Llama 2 and 3).
#include "model/families/family.h"

namespace sft::model {

DecoderSpec read_llama(const ConfigReader& config) {
  DecoderSpec spec = read_sizes(config, {32000, 4096, 11008, 32, 32});
  spec.norm_kind = ops::NormKind::kRmsNorm;
  spec.norm_eps = config.positive_number("rms_norm_eps", 1e-6);
  read_rope(config, spec);
  spec.attention_bias = spec.attention_out_bias = config.flag("attention_bias", false);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  spec.mlp_bias = config.flag("mlp_bias", false);
  spec.activation = activation_named(config, "hidden_act", "silu");
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  spec.padding_idx = padding_index(config, std::nullopt, spec.vocab_size);
  return spec;
}

const Family& llama_family() {
  static const Family kFamily{"llama", "model.", &read_llama, llama_names()};
  return kFamily;
}

}  // namespace sft::model
