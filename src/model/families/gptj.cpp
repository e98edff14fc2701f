// GPT-J: attention and MLP side by side behind one norm, rotary positions of neighbouring features.
#include <cmath>

#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kNames = {
    RoleName{Role::kTokenEmbedding, "transformer.wte"},
    RoleName{Role::kQuery, "transformer.h.{}.attn.q_proj"},
    RoleName{Role::kKey, "transformer.h.{}.attn.k_proj"},
    RoleName{Role::kValue, "transformer.h.{}.attn.v_proj"},
    RoleName{Role::kAttentionOut, "transformer.h.{}.attn.out_proj"},
    RoleName{Role::kUp, "transformer.h.{}.mlp.fc_in"},
    RoleName{Role::kDown, "transformer.h.{}.mlp.fc_out"},
    RoleName{Role::kSharedNorm, "transformer.h.{}.ln_1"},
    RoleName{Role::kOutputEmbedding, "lm_head"},
    RoleName{Role::kFinalNorm, "transformer.ln_f"},
};

DecoderSpec read_config(const ConfigReader& config) {
  DecoderSpec spec;
  spec.vocab_size = config.positive("vocab_size", 50400);
  spec.hidden_size = spec.embedding_size = config.positive("n_embd", 4096);
  spec.intermediate_size = config.positive("n_inner", 4 * spec.hidden_size);
  spec.num_hidden_layers = config.positive("n_layer", 28);
  spec.num_attention_heads = spec.num_key_value_heads = config.positive("n_head", 16);
  spec.head_dim = divided(config, "n_embd", spec.hidden_size, "n_head", spec.num_attention_heads);
  spec.max_position_embeddings = config.positive("n_positions", 2048);
  spec.longest_row = spec.max_position_embeddings;  // transformers' table of angles ends there
  spec.norm_eps = config.positive_number("layer_norm_epsilon", 1e-5);

  // A null rotary_dim makes transformers take angles for the hidden size: no checkpoint does.
  if (config.contains("rotary_dim") && !config.has("rotary_dim"))
    config.unsupported("rotary_dim", "a number");
  RopeSpec rope;
  rope.rotary_dim = config.positive("rotary_dim", 64);
  if (rope.rotary_dim % 2 != 0 || rope.rotary_dim > spec.head_dim) {
    config.unsupported("rotary_dim", "an even number of at most n_embd / n_head");
  }
  spec.ropes = {rope};
  spec.rotary_layout = ops::RotaryLayout::kInterleaved;

  spec.parallel_residual = spec.shared_parallel_norm = true;
  spec.attention_scale = 1.0 / std::sqrt(static_cast<double>(spec.head_dim));
  spec.mlp_bias = spec.head_bias = true;
  spec.gated_mlp = false;
  spec.activation = activation_named(config, "activation_function", "gelu_new");
  spec.embedding_dropout = config.probability("embd_pdrop", 0.0);
  spec.residual_dropout = config.probability("resid_pdrop", 0.0);
  spec.attention_dropout = config.probability("attn_pdrop", 0.0);
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  return spec;
}

}  // namespace

const Family& gptj_family() {
  static const Family kFamily{"gptj", "transformer.", &read_config, kNames};
  return kFamily;
}

}  // namespace sft::model
