// GPT-NeoX (Pythia): LayerNorm, attention and MLP side by side, partial rotary positions, one tensor for q, k
// and v head by head.
#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kNames = {
    RoleName{Role::kTokenEmbedding, "gpt_neox.embed_in"},
    RoleName{Role::kQueryKeyValue, "gpt_neox.layers.{}.attention.query_key_value"},
    RoleName{Role::kAttentionOut, "gpt_neox.layers.{}.attention.dense"},
    RoleName{Role::kUp, "gpt_neox.layers.{}.mlp.dense_h_to_4h"},
    RoleName{Role::kDown, "gpt_neox.layers.{}.mlp.dense_4h_to_h"},
    RoleName{Role::kAttentionNorm, "gpt_neox.layers.{}.input_layernorm"},
    RoleName{Role::kMlpNorm, "gpt_neox.layers.{}.post_attention_layernorm"},
    RoleName{Role::kOutputEmbedding, "embed_out", "lm_head", "lm_head"},
    RoleName{Role::kFinalNorm, "gpt_neox.final_layer_norm"},
};

DecoderSpec read_config(const ConfigReader& config) {
  DecoderSpec spec = read_sizes(config, {50432, 6144, 24576, 44, 64});
  spec.norm_eps = config.positive_number("layer_norm_eps", 1e-5);
  read_rope(config, spec,
            {.partial_rotary_factor = 0.25,
             .can_be_partial = true,
             .theta_key = "rotary_emb_base",
             .partial_key = "rotary_pct"});
  spec.parallel_residual = config.flag("use_parallel_residual", true);
  spec.qkv_layout = QkvLayout::kGroups;
  spec.attention_bias = spec.attention_out_bias = config.flag("attention_bias", true);
  spec.gated_mlp = false;
  spec.mlp_bias = true;
  spec.activation = activation_named(config, "hidden_act", "gelu");
  spec.embedding_dropout = spec.residual_dropout = config.probability("hidden_dropout", 0.0);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  return spec;
}

}  // namespace

const Family& gpt_neox_family() {
  static const Family kFamily{"gpt_neox", "gpt_neox.", &read_config, kNames};
  return kFamily;
}

}  // namespace sft::model
