// Llama: RMSNorm, rotary positions, grouped-query attention, gated MLP (also SmolLM2, Llama 2 and 3).
#include <cmath>
#include <limits>

#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kNames = {
    RoleName{Role::kTokenEmbedding, "model.embed_tokens"},
    RoleName{Role::kQuery, "model.layers.{}.self_attn.q_proj"},
    RoleName{Role::kKey, "model.layers.{}.self_attn.k_proj"},
    RoleName{Role::kValue, "model.layers.{}.self_attn.v_proj"},
    RoleName{Role::kAttentionOut, "model.layers.{}.self_attn.o_proj"},
    RoleName{Role::kGate, "model.layers.{}.mlp.gate_proj"},
    RoleName{Role::kUp, "model.layers.{}.mlp.up_proj"},
    RoleName{Role::kDown, "model.layers.{}.mlp.down_proj"},
    RoleName{Role::kAttentionNorm, "model.layers.{}.input_layernorm"},
    RoleName{Role::kMlpNorm, "model.layers.{}.post_attention_layernorm"},
    RoleName{Role::kOutputEmbedding, "lm_head"},
    RoleName{Role::kFinalNorm, "model.norm"},
};

void read_rope_scaling(const ConfigReader& rope, DecoderSpec& spec) {
  const std::string legacy = rope.text("type", "default");  // the key's name before transformers 4.45
  const std::string type = rope.text("rope_type", legacy);
  if (rope.number("partial_rotary_factor", 1.0) != 1.0) rope.unsupported("partial_rotary_factor", "1.0");
  spec.rope_theta = rope.positive_number("rope_theta", spec.rope_theta);
  if (type == "default") return;

  const double missing = std::numeric_limits<double>::quiet_NaN();
  spec.rope_factor = rope.positive_number("factor", missing);
  if (type == "linear") {
    spec.rope_scaling = RopeScaling::kLinear;
  } else if (type == "llama3") {
    spec.rope_scaling = RopeScaling::kLlama3;
    spec.rope_low_freq_factor = rope.positive_number("low_freq_factor", missing);
    spec.rope_high_freq_factor = rope.positive_number("high_freq_factor", missing);
    spec.rope_original_max_position_embeddings =
        rope.positive("original_max_position_embeddings", spec.max_position_embeddings);
    if (spec.rope_high_freq_factor <= spec.rope_low_freq_factor) {
      rope.unsupported("high_freq_factor", "a number above low_freq_factor");
    }
  } else {
    rope.unsupported(rope.has("rope_type") ? "rope_type" : "type", "default, linear, llama3");
  }
}

// transformers 5 writes rope_parameters; before, rope_theta stood alone and rope_scaling was null or an
// object.
void read_rope(const ConfigReader& config, DecoderSpec& spec) {
  if (config.number("partial_rotary_factor", 1.0) != 1.0) config.unsupported("partial_rotary_factor", "1.0");
  spec.rope_theta = config.positive_number("rope_theta", 10000.0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (config.has(key)) return read_rope_scaling(config.object(key), spec);
  }
}

DecoderSpec read_config(const ConfigReader& config) {
  DecoderSpec spec;
  spec.vocab_size = config.positive("vocab_size", 32000);
  spec.hidden_size = spec.embedding_size = config.positive("hidden_size", 4096);
  spec.intermediate_size = config.positive("intermediate_size", 11008);
  spec.num_hidden_layers = config.positive("num_hidden_layers", 32);
  spec.num_attention_heads = config.positive("num_attention_heads", 32);
  spec.num_key_value_heads = config.positive("num_key_value_heads", spec.num_attention_heads);
  divided(config, "num_attention_heads", spec.num_attention_heads, "num_key_value_heads",
          spec.num_key_value_heads);
  spec.head_dim = config.has("head_dim") ? config.positive("head_dim", 0)
                                         : divided(config, "hidden_size", spec.hidden_size,
                                                   "num_attention_heads", spec.num_attention_heads);
  if (spec.head_dim % 2 != 0) config.unsupported("head_dim", "an even number (rotary positions)");
  spec.max_position_embeddings = config.positive("max_position_embeddings", 2048);

  spec.norm_kind = ops::NormKind::kRmsNorm;
  spec.norm_eps = config.positive_number("rms_norm_eps", 1e-6);
  read_rope(config, spec);
  spec.attention_scale = 1.0 / std::sqrt(static_cast<double>(spec.head_dim));
  spec.attention_bias = spec.attention_out_bias = config.flag("attention_bias", false);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  spec.mlp_bias = config.flag("mlp_bias", false);
  spec.activation = activation_named(config, "hidden_act", "silu");
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  spec.padding_idx = padding_index(config, std::nullopt, spec.vocab_size);
  return spec;
}

}  // namespace

const Family& llama_family() {
  static constexpr Family kFamily{"llama", "model.", &read_config, kNames};
  return kFamily;
}

}  // namespace sft::model
