// BLOOM: ALiBi instead of positions, a norm behind the embedding, one tensor for q, k and v head by head.
#include <bit>
#include <cmath>

#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kNames = {
    RoleName{Role::kTokenEmbedding, "transformer.word_embeddings"},
    RoleName{Role::kEmbeddingNorm, "transformer.word_embeddings_layernorm"},
    RoleName{Role::kQueryKeyValue, "transformer.h.{}.self_attention.query_key_value"},
    RoleName{Role::kAttentionOut, "transformer.h.{}.self_attention.dense"},
    RoleName{Role::kUp, "transformer.h.{}.mlp.dense_h_to_4h"},
    RoleName{Role::kDown, "transformer.h.{}.mlp.dense_4h_to_h"},
    RoleName{Role::kAttentionNorm, "transformer.h.{}.input_layernorm"},
    RoleName{Role::kMlpNorm, "transformer.h.{}.post_attention_layernorm"},
    RoleName{Role::kOutputEmbedding, "lm_head"},
    RoleName{Role::kFinalNorm, "transformer.ln_f"},
};

// arXiv:2108.12409: a geometric sequence for the largest power of two of heads; further heads take every
// second slope of the sequence for twice as many.
std::vector<double> alibi_slopes(int64_t heads) {
  const auto whole = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(heads)));
  std::vector<double> slopes;
  for (int64_t i = 1; i <= whole; ++i) {
    slopes.push_back(std::exp2(-8.0 * static_cast<double>(i) / static_cast<double>(whole)));
  }
  for (int64_t i = 1; static_cast<int64_t>(slopes.size()) < heads; i += 2) {
    slopes.push_back(std::exp2(-4.0 * static_cast<double>(i) / static_cast<double>(whole)));
  }
  return slopes;
}

DecoderSpec read_config(const ConfigReader& config) {
  config.require_flag("apply_residual_connection_post_layernorm", false);
  config.require_flag("slow_but_exact", false);
  DecoderSpec spec;
  spec.vocab_size = config.positive("vocab_size", 250880);
  spec.hidden_size = config.positive("n_embed", config.positive("hidden_size", 64));
  spec.embedding_size = spec.hidden_size;
  spec.intermediate_size = 4 * spec.hidden_size;
  spec.num_hidden_layers = config.positive("n_layer", config.positive("num_hidden_layers", 2));
  spec.num_attention_heads = config.positive("n_head", config.positive("num_attention_heads", 8));
  spec.num_key_value_heads = spec.num_attention_heads;
  spec.head_dim = divided(config, "hidden_size", spec.hidden_size, "n_head", spec.num_attention_heads);
  // No limit is written down; 2048 is what the released models were trained with (seq_length).
  spec.max_position_embeddings = config.positive("seq_length", 2048);
  spec.position_kind = PositionKind::kAlibi;
  spec.alibi_slopes = alibi_slopes(spec.num_attention_heads);
  spec.norm_eps = config.positive_number("layer_norm_epsilon", 1e-5);
  spec.embedding_norm = true;
  spec.qkv_layout = QkvLayout::kGroups;
  spec.attention_scale = 1.0 / std::sqrt(static_cast<double>(spec.head_dim));
  spec.attention_bias = spec.attention_out_bias = spec.mlp_bias = true;
  spec.gated_mlp = false;
  spec.activation = ops::Activation::kGeluTanh;
  spec.residual_dropout = config.probability("hidden_dropout", 0.0);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", true);
  return spec;
}

}  // namespace

const Family& bloom_family() {
  static const Family kFamily{"bloom", "transformer.", &read_config, kNames};
  return kFamily;
}

}  // namespace sft::model
