// GPT-2: learned positions, pre-norm, plain MLP, weights stored [in, out], one tensor for q, k and v.
#include <cmath>

#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kNames = {
    RoleName{Role::kTokenEmbedding, "transformer.wte"},
    RoleName{Role::kPositionEmbedding, "transformer.wpe"},
    RoleName{Role::kQueryKeyValue, "transformer.h.{}.attn.c_attn"},
    RoleName{Role::kAttentionOut, "transformer.h.{}.attn.c_proj"},
    RoleName{Role::kUp, "transformer.h.{}.mlp.c_fc"},
    RoleName{Role::kDown, "transformer.h.{}.mlp.c_proj"},
    RoleName{Role::kAttentionNorm, "transformer.h.{}.ln_1"},
    RoleName{Role::kMlpNorm, "transformer.h.{}.ln_2"},
    RoleName{Role::kOutputEmbedding, "lm_head"},
    RoleName{Role::kFinalNorm, "transformer.ln_f"},
};

DecoderSpec read_config(const ConfigReader& config) {
  config.require_flag("scale_attn_by_inverse_layer_idx", false);
  config.require_flag("reorder_and_upcast_attn", false);
  config.require_flag("add_cross_attention", false);

  DecoderSpec spec;
  spec.vocab_size = config.positive("vocab_size", 50257);
  spec.hidden_size = spec.embedding_size = config.positive("n_embd", 768);
  spec.intermediate_size = config.positive("n_inner", 4 * spec.hidden_size);
  spec.num_hidden_layers = config.positive("n_layer", 12);
  spec.num_attention_heads = spec.num_key_value_heads = config.positive("n_head", 12);
  spec.head_dim = divided(config, "n_embd", spec.hidden_size, "n_head", spec.num_attention_heads);
  spec.max_position_embeddings = config.positive("n_positions", 1024);
  spec.position_kind = PositionKind::kLearned;
  spec.longest_row = spec.max_position_embeddings;
  spec.norm_eps = config.positive_number("layer_norm_epsilon", 1e-5);

  spec.attention_bias = spec.attention_out_bias = spec.mlp_bias = true;
  spec.attention_scale =
      config.flag("scale_attn_weights", true) ? 1.0 / std::sqrt(static_cast<double>(spec.head_dim)) : 1.0;
  spec.gated_mlp = false;
  spec.activation = activation_named(config, "activation_function", "gelu_new");
  spec.embedding_dropout = config.probability("embd_pdrop", 0.1);
  spec.residual_dropout = config.probability("resid_pdrop", 0.1);
  spec.attention_dropout = config.probability("attn_pdrop", 0.1);

  spec.transposed_linear = true;
  spec.qkv_layout = QkvLayout::kBlocks;
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", true);
  spec.hf_counts_first_label = true;
  return spec;
}

}  // namespace

const Family& gpt2_family() {
  static constexpr Family kFamily{"gpt2", "transformer.", &read_config, kNames};
  return kFamily;
}

}  // namespace sft::model
