// GPT-2: learned positions, pre-norm, plain MLP, weights stored [in, out], one tensor for q, k and v.
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

  DecoderSpec spec = read_gpt(config, {50257, 768, 12, 12, 1024, 0.1});
  spec.position_kind = PositionKind::kLearned;
  spec.attention_bias = spec.attention_out_bias = true;
  if (!config.flag("scale_attn_weights", true)) spec.attention_scale = 1.0;
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
