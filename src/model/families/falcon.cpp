// Falcon: one tensor for q, k and v, attention and MLP side by side. 7B: one key head, one norm. 11B, 40B and
// 180B: groups of heads, and a norm each for attention and MLP where num_ln_in_parallel_attn says so.
#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kNames = {
    RoleName{Role::kTokenEmbedding, "transformer.word_embeddings"},
    RoleName{Role::kQueryKeyValue, "transformer.h.{}.self_attention.query_key_value"},
    RoleName{Role::kAttentionOut, "transformer.h.{}.self_attention.dense"},
    RoleName{Role::kUp, "transformer.h.{}.mlp.dense_h_to_4h"},
    RoleName{Role::kDown, "transformer.h.{}.mlp.dense_4h_to_h"},
    RoleName{Role::kSharedNorm, "transformer.h.{}.input_layernorm"},
    RoleName{Role::kAttentionNorm, "transformer.h.{}.ln_attn"},
    RoleName{Role::kMlpNorm, "transformer.h.{}.ln_mlp"},
    RoleName{Role::kOutputEmbedding, "lm_head"},
    RoleName{Role::kFinalNorm, "transformer.ln_f"},
};

DecoderSpec read_config(const ConfigReader& config) {
  config.require_flag("alibi", false);
  config.require_flag("parallel_attn", true);
  // transformers uses these two in ways of their own, depending on the kind of layer.
  for (const char* key : {"hidden_dropout", "attention_dropout"}) {
    if (config.number(key, 0.0) != 0.0) config.unsupported(key, "0.0");
  }
  DecoderSpec spec = read_sizes(config, {65024, 4544, 18176, 32, 71});
  spec.intermediate_size = config.positive("ffn_hidden_size", 4 * spec.hidden_size);
  const bool grouped = config.flag("new_decoder_architecture", false);
  const bool one_key_head = !grouped && config.flag("multi_query", true);
  spec.num_key_value_heads = one_key_head ? 1 : config.positive("num_kv_heads", spec.num_attention_heads);
  divided(config, "num_attention_heads", spec.num_attention_heads, "num_kv_heads", spec.num_key_value_heads);
  spec.qkv_layout = one_key_head ? QkvLayout::kBlocks : QkvLayout::kGroups;
  spec.norm_eps = config.positive_number("layer_norm_epsilon", 1e-5);
  read_rope(config, spec);
  const int64_t norms = config.positive("num_ln_in_parallel_attn", grouped ? 2 : 1);
  if (norms > (grouped ? 2 : 1)) config.unsupported("num_ln_in_parallel_attn", grouped ? "1, 2" : "1");
  spec.parallel_residual = true;
  spec.shared_parallel_norm = norms == 1;
  spec.attention_bias = spec.attention_out_bias = spec.mlp_bias = config.flag("bias", false);
  spec.gated_mlp = false;
  spec.activation = activation_named(config, "activation", "gelu");
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", true);
  return spec;
}

}  // namespace

const Family& falcon_family() {
  static const Family kFamily{"falcon", "transformer.", &read_config, kNames};
  return kFamily;
}

}  // namespace sft::model
