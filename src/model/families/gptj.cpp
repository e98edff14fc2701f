// GPT-J: attention and MLP side by side behind one norm, rotary positions of neighbouring features.
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
  DecoderSpec spec = read_gpt(config, {50400, 4096, 28, 16, 2048, 0.0});
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
  spec.head_bias = true;
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  return spec;
}

}  // namespace

const Family& gptj_family() {
  static const Family kFamily{"gptj", "transformer.", &read_config, kNames};
  return kFamily;
}

}  // namespace sft::model
