// OPT: learned positions, plain MLP; pre-norm, or post-norm with projected word embeddings (the 350m model).
#include <cmath>

#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kNames = {
    RoleName{Role::kTokenEmbedding, "model.decoder.embed_tokens"},
    RoleName{Role::kPositionEmbedding, "model.decoder.embed_positions"},
    RoleName{Role::kProjectIn, "model.decoder.project_in"},
    RoleName{Role::kQuery, "model.decoder.layers.{}.self_attn.q_proj"},
    RoleName{Role::kKey, "model.decoder.layers.{}.self_attn.k_proj"},
    RoleName{Role::kValue, "model.decoder.layers.{}.self_attn.v_proj"},
    RoleName{Role::kAttentionOut, "model.decoder.layers.{}.self_attn.out_proj"},
    RoleName{Role::kUp, "model.decoder.layers.{}.fc1"},
    RoleName{Role::kDown, "model.decoder.layers.{}.fc2"},
    RoleName{Role::kAttentionNorm, "model.decoder.layers.{}.self_attn_layer_norm"},
    RoleName{Role::kMlpNorm, "model.decoder.layers.{}.final_layer_norm"},
    RoleName{Role::kOutputEmbedding, "lm_head"},
    RoleName{Role::kProjectOut, "model.decoder.project_out"},
    RoleName{Role::kFinalNorm, "model.decoder.final_layer_norm"},
};

DecoderSpec read_config(const ConfigReader& config) {
  DecoderSpec spec;
  spec.vocab_size = config.positive("vocab_size", 50272);
  spec.hidden_size = config.positive("hidden_size", 768);
  spec.embedding_size = config.positive("word_embed_proj_dim", spec.hidden_size);
  spec.intermediate_size = config.positive("ffn_dim", 3072);
  spec.num_hidden_layers = config.positive("num_hidden_layers", 12);
  spec.num_attention_heads = spec.num_key_value_heads = config.positive("num_attention_heads", 12);
  spec.head_dim =
      divided(config, "hidden_size", spec.hidden_size, "num_attention_heads", spec.num_attention_heads);
  spec.max_position_embeddings = config.positive("max_position_embeddings", 2048);
  spec.position_kind = PositionKind::kLearned;
  spec.position_offset = 2;
  spec.longest_row = spec.max_position_embeddings;

  const bool norm_before = config.flag("do_layer_norm_before", true);
  spec.norm_placement = norm_before ? NormPlacement::kPre : NormPlacement::kPost;
  spec.norm_affine = config.flag("layer_norm_elementwise_affine", true);
  spec.final_norm = norm_before && !config.flag("_remove_final_layer_norm", false);

  const bool bias = config.flag("enable_bias", true);
  spec.attention_bias = spec.attention_out_bias = spec.mlp_bias = bias;
  spec.attention_scale = 1.0 / std::sqrt(static_cast<double>(spec.head_dim));
  spec.gated_mlp = false;
  spec.activation = activation_named(config, "activation_function", "relu");
  spec.residual_dropout = config.probability("dropout", 0.1);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  if (config.number("layerdrop", 0.0) != 0.0) config.unsupported("layerdrop", "0.0");

  spec.tie_word_embeddings = config.flag("tie_word_embeddings", true);
  spec.padding_idx = padding_index(config, 1, spec.vocab_size);
  return spec;
}

}  // namespace

const Family& opt_family() {
  static constexpr Family kFamily{"opt", "model.", &read_config, kNames};
  return kFamily;
}

}  // namespace sft::model
