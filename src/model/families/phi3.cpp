// Phi-3, 3.5 and 4-mini: Llama with one tensor for q, k and v, one for gate and up, and partial rotary
// positions.
#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kNames = {
    RoleName{Role::kTokenEmbedding, "model.embed_tokens"},
    RoleName{Role::kQueryKeyValue, "model.layers.{}.self_attn.qkv_proj"},
    RoleName{Role::kAttentionOut, "model.layers.{}.self_attn.o_proj"},
    RoleName{Role::kGateUp, "model.layers.{}.mlp.gate_up_proj"},
    RoleName{Role::kDown, "model.layers.{}.mlp.down_proj"},
    RoleName{Role::kAttentionNorm, "model.layers.{}.input_layernorm"},
    RoleName{Role::kMlpNorm, "model.layers.{}.post_attention_layernorm"},
    RoleName{Role::kOutputEmbedding, "lm_head"},
    RoleName{Role::kFinalNorm, "model.norm"},
};

DecoderSpec read_config(const ConfigReader& config) {
  DecoderSpec spec = read_sizes(config, {.vocab_size = 32064,
                                         .hidden_size = 3072,
                                         .intermediate_size = 8192,
                                         .num_hidden_layers = 32,
                                         .num_attention_heads = 32,
                                         .max_position_embeddings = 4096});
  spec.norm_kind = ops::NormKind::kRmsNorm;
  spec.norm_eps = config.positive_number("rms_norm_eps", 1e-5);
  read_rope(config, spec, {.can_be_partial = true, .original_positions = 4096});
  read_uniform_window(config, spec, std::nullopt);
  spec.qkv_layout = QkvLayout::kBlocks;
  spec.fused_gate_up = true;
  spec.activation = activation_named(config, "hidden_act", "silu");
  // embd_pdrop is read and never applied by transformers.
  spec.residual_dropout = config.probability("resid_pdrop", 0.0);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  spec.padding_idx = padding_index(config, 32000, spec.vocab_size);
  return spec;
}

}  // namespace

const Family& phi3_family() {
  static const Family kFamily{"phi3", "model.", &read_config, kNames};
  return kFamily;
}

}  // namespace sft::model
