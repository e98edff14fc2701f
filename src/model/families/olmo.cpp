// OLMo 1: Llama with LayerNorm without weights. OLMo 2: norms of what a sublayer gives rather than of what it
// takes, and of all of q and all of k. OLMoE: those norms of q and k, the others as Llama's, and a mixture of
// experts.
#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kOutputNorms = {
    RoleName{Role::kAttentionOutputNorm, "model.layers.{}.post_attention_layernorm"},
    RoleName{Role::kMlpOutputNorm, "model.layers.{}.post_feedforward_layernorm"},
};

constexpr std::array kMixtureNames = {
    RoleName{Role::kRouter, "model.layers.{}.mlp.gate"},
    RoleName{Role::kExpertGate, "model.layers.{}.mlp.experts.{}.gate_proj"},
    RoleName{Role::kExpertUp, "model.layers.{}.mlp.experts.{}.up_proj"},
    RoleName{Role::kExpertDown, "model.layers.{}.mlp.experts.{}.down_proj"},
};

DecoderSpec read_common(const ConfigReader& config, const SizeDefaults& sizes) {
  DecoderSpec spec = read_sizes(config, sizes);
  read_rope(config, spec);
  spec.attention_bias = spec.attention_out_bias = config.flag("attention_bias", false);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  spec.activation = activation_named(config, "hidden_act", "silu");
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  spec.padding_idx = padding_index(config, 1, spec.vocab_size);
  return spec;
}

DecoderSpec read_olmo(const ConfigReader& config) {
  if (config.has("clip_qkv")) config.unsupported("clip_qkv", "null");
  DecoderSpec spec = read_common(config, {50304, 4096, 11008, 32, 32});
  spec.norm_affine = false;
  spec.norm_eps = 1e-5;
  return spec;
}

DecoderSpec read_olmo2(const ConfigReader& config) {
  DecoderSpec spec = read_common(config, {50304, 4096, 11008, 32, 32});
  spec.norm_kind = ops::NormKind::kRmsNorm;
  spec.norm_placement = NormPlacement::kOutput;
  spec.norm_eps = config.positive_number("rms_norm_eps", 1e-5);
  spec.qk_norm = QkNorm::kWhole;
  return spec;
}

DecoderSpec read_olmoe(const ConfigReader& config) {
  if (config.has("clip_qkv")) config.unsupported("clip_qkv", "null");
  SizeDefaults sizes{50304, 2048, 2048, 16, 16};
  sizes.max_position_embeddings = 4096;
  DecoderSpec spec = read_common(config, sizes);
  spec.norm_kind = ops::NormKind::kRmsNorm;
  spec.norm_eps = config.positive_number("rms_norm_eps", 1e-5);
  spec.qk_norm = QkNorm::kWhole;
  read_mixture(config, spec, {.num_experts = 64, .num_experts_per_tok = 8, .router_aux_loss_coef = 0.01});
  return spec;
}

}  // namespace

const Family& olmo_family() {
  static const Family kFamily{"olmo", "model.", &read_olmo, llama_names()};
  return kFamily;
}

const Family& olmo2_family() {
  static const std::vector<RoleName> kNames = llama_names_with(kOutputNorms);
  static const Family kFamily{"olmo2", "model.", &read_olmo2, kNames};
  return kFamily;
}

const Family& olmoe_family() {
  static const std::vector<RoleName> kNames = llama_names_with(kMixtureNames);
  static const Family kFamily{"olmoe", "model.", &read_olmoe, kNames};
  return kFamily;
}

}  // namespace sft::model
