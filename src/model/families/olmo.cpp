// OLMo 1: Llama with LayerNorm without weights. OLMo 2: norms of what a sublayer gives rather than of what it
// takes, and of all of q and all of k.
#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kOlmo2Names = {
    RoleName{Role::kTokenEmbedding, "model.embed_tokens"},
    RoleName{Role::kQuery, "model.layers.{}.self_attn.q_proj"},
    RoleName{Role::kKey, "model.layers.{}.self_attn.k_proj"},
    RoleName{Role::kValue, "model.layers.{}.self_attn.v_proj"},
    RoleName{Role::kAttentionOut, "model.layers.{}.self_attn.o_proj"},
    RoleName{Role::kQueryNorm, "model.layers.{}.self_attn.q_norm"},
    RoleName{Role::kKeyNorm, "model.layers.{}.self_attn.k_norm"},
    RoleName{Role::kGate, "model.layers.{}.mlp.gate_proj"},
    RoleName{Role::kUp, "model.layers.{}.mlp.up_proj"},
    RoleName{Role::kDown, "model.layers.{}.mlp.down_proj"},
    RoleName{Role::kAttentionOutputNorm, "model.layers.{}.post_attention_layernorm"},
    RoleName{Role::kMlpOutputNorm, "model.layers.{}.post_feedforward_layernorm"},
    RoleName{Role::kOutputEmbedding, "lm_head"},
    RoleName{Role::kFinalNorm, "model.norm"},
};

DecoderSpec read_common(const ConfigReader& config) {
  DecoderSpec spec = read_sizes(config, {50304, 4096, 11008, 32, 32});
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
  DecoderSpec spec = read_common(config);
  spec.norm_affine = false;
  spec.norm_eps = 1e-5;
  return spec;
}

DecoderSpec read_olmo2(const ConfigReader& config) {
  DecoderSpec spec = read_common(config);
  spec.norm_kind = ops::NormKind::kRmsNorm;
  spec.norm_placement = NormPlacement::kOutput;
  spec.norm_eps = config.positive_number("rms_norm_eps", 1e-5);
  spec.qk_norm = QkNorm::kWhole;
  return spec;
}

}  // namespace

const Family& olmo_family() {
  static const Family kFamily{"olmo", "model.", &read_olmo, llama_names()};
  return kFamily;
}

const Family& olmo2_family() {
  static const Family kFamily{"olmo2", "model.", &read_olmo2, kOlmo2Names};
  return kFamily;
}

}  // namespace sft::model
