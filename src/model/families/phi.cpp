// Phi 1, 1.5 and 2: LayerNorm, attention and MLP side by side behind one norm, partial rotary positions,
// biases everywhere.
#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kNames = {
    RoleName{Role::kTokenEmbedding, "model.embed_tokens"},
    RoleName{Role::kQuery, "model.layers.{}.self_attn.q_proj"},
    RoleName{Role::kKey, "model.layers.{}.self_attn.k_proj"},
    RoleName{Role::kValue, "model.layers.{}.self_attn.v_proj"},
    RoleName{Role::kAttentionOut, "model.layers.{}.self_attn.dense"},
    RoleName{Role::kUp, "model.layers.{}.mlp.fc1"},
    RoleName{Role::kDown, "model.layers.{}.mlp.fc2"},
    RoleName{Role::kSharedNorm, "model.layers.{}.input_layernorm"},
    RoleName{Role::kOutputEmbedding, "lm_head"},
    RoleName{Role::kFinalNorm, "model.final_layernorm"},
};

DecoderSpec read_config(const ConfigReader& config) {
  config.require_flag("qk_layernorm", false);
  DecoderSpec spec = read_sizes(config, {51200, 2048, 8192, 24, 32});
  spec.norm_eps = config.positive_number("layer_norm_eps", 1e-5);
  read_rope(config, spec, {.partial_rotary_factor = 0.5, .can_be_partial = true});
  spec.parallel_residual = spec.shared_parallel_norm = true;
  spec.attention_bias = spec.attention_out_bias = spec.mlp_bias = spec.head_bias = true;
  spec.gated_mlp = false;
  spec.activation = activation_named(config, "hidden_act", "gelu_new");
  spec.embedding_dropout = config.probability("embd_pdrop", 0.0);
  spec.residual_dropout = config.probability("resid_pdrop", 0.0);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  spec.padding_idx = padding_index(config, std::nullopt, spec.vocab_size);
  return spec;
}

}  // namespace

const Family& phi_family() {
  static const Family kFamily{"phi", "model.", &read_config, kNames};
  return kFamily;
}

}  // namespace sft::model
