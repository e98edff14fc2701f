// Granite: Llama with multipliers on embeddings, scores, what sublayers add, and logits.
#include "model/families/family.h"

namespace sft::model {
namespace {

DecoderSpec read_config(const ConfigReader& config) {
  DecoderSpec spec = read_sizes(config, {32000, 4096, 11008, 32, 32});
  spec.norm_kind = ops::NormKind::kRmsNorm;
  spec.norm_eps = config.positive_number("rms_norm_eps", 1e-6);
  read_rope(config, spec);
  spec.embedding_scale = config.positive_number("embedding_multiplier", 1.0);
  spec.attention_scale = config.positive_number("attention_multiplier", 1.0);
  spec.residual_multiplier = config.positive_number("residual_multiplier", 1.0);
  spec.logit_scale = 1.0 / config.positive_number("logits_scaling", 1.0);
  spec.attention_bias = spec.attention_out_bias = config.flag("attention_bias", false);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  spec.mlp_bias = config.flag("mlp_bias", false);
  spec.activation = activation_named(config, "hidden_act", "silu");
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  spec.padding_idx = padding_index(config, std::nullopt, spec.vocab_size);
  return spec;
}

}  // namespace

const Family& granite_family() {
  static const Family kFamily{"granite", "model.", &read_config, llama_names()};
  return kFamily;
}

}  // namespace sft::model
