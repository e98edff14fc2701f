// Phi 1, 1.5 and 2: LayerNorm, attention and MLP side by side behind one norm, partial rotary positions,
// biases everywhere.
#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kChanges = {
    RoleName{Role::kAttentionOut, "model.layers.{}.self_attn.dense"},
    RoleName{Role::kUp, "model.layers.{}.mlp.fc1"},
    RoleName{Role::kDown, "model.layers.{}.mlp.fc2"},
    RoleName{Role::kFinalNorm, "model.final_layernorm"},
};

DecoderSpec read_config(const ConfigReader& config) {
  config.require_flag("qk_layernorm", false);
  DecoderSpec spec = read_plain_mlp(config, {.sizes = {51200, 2048, 8192, 24, 32},
                                             .activation = "gelu_new",
                                             .tied = false,
                                             .norm_eps_key = "layer_norm_eps",
                                             .embedding_dropout_key = "embd_pdrop",
                                             .residual_dropout_key = "resid_pdrop"});
  read_rope(config, spec, {.partial_rotary_factor = 0.5, .can_be_partial = true});
  spec.parallel_residual = spec.shared_parallel_norm = true;
  spec.attention_bias = spec.attention_out_bias = spec.mlp_bias = spec.head_bias = true;
  return spec;
}

}  // namespace

const Family& phi_family() {
  static const std::vector<RoleName> kNames = llama_names_with(kChanges);
  static const Family kFamily{"phi", "model.", &read_config, kNames};
  return kFamily;
}

}  // namespace sft::model
