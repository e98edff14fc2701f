// StarCoder2: LayerNorm, biases everywhere, a plain MLP, grouped queries in a sliding window.
#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kNames = {
    RoleName{Role::kTokenEmbedding, "model.embed_tokens"},
    RoleName{Role::kQuery, "model.layers.{}.self_attn.q_proj"},
    RoleName{Role::kKey, "model.layers.{}.self_attn.k_proj"},
    RoleName{Role::kValue, "model.layers.{}.self_attn.v_proj"},
    RoleName{Role::kAttentionOut, "model.layers.{}.self_attn.o_proj"},
    RoleName{Role::kUp, "model.layers.{}.mlp.c_fc"},
    RoleName{Role::kDown, "model.layers.{}.mlp.c_proj"},
    RoleName{Role::kAttentionNorm, "model.layers.{}.input_layernorm"},
    RoleName{Role::kMlpNorm, "model.layers.{}.post_attention_layernorm"},
    RoleName{Role::kOutputEmbedding, "lm_head"},
    RoleName{Role::kFinalNorm, "model.norm"},
};

DecoderSpec read_config(const ConfigReader& config) {
  DecoderSpec spec = read_sizes(config, {.vocab_size = 49152,
                                         .hidden_size = 3072,
                                         .intermediate_size = 12288,
                                         .num_hidden_layers = 30,
                                         .num_attention_heads = 24,
                                         .num_key_value_heads = 2,
                                         .max_position_embeddings = 4096});
  spec.norm_eps = config.positive_number("norm_epsilon", 1e-5);
  read_rope(config, spec);
  read_uniform_window(config, spec, std::nullopt);
  spec.attention_bias = spec.attention_out_bias = spec.mlp_bias = config.flag("use_bias", true);
  spec.gated_mlp = false;
  spec.activation = activation_named(config, "hidden_act", "gelu_pytorch_tanh");
  spec.embedding_dropout = config.probability("embedding_dropout", 0.0);
  spec.residual_dropout = config.probability("residual_dropout", 0.0);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", true);
  spec.padding_idx = padding_index(config, std::nullopt, spec.vocab_size);
  return spec;
}

}  // namespace

const Family& starcoder2_family() {
  static const Family kFamily{"starcoder2", "model.", &read_config, kNames};
  return kFamily;
}

}  // namespace sft::model
