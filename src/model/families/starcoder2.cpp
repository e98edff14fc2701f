// StarCoder2: LayerNorm, biases everywhere, a plain MLP, grouped queries in a sliding window.
#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kChanges = {
    RoleName{Role::kUp, "model.layers.{}.mlp.c_fc"},
    RoleName{Role::kDown, "model.layers.{}.mlp.c_proj"},
};

DecoderSpec read_config(const ConfigReader& config) {
  DecoderSpec spec = read_plain_mlp(config, {.sizes = {.vocab_size = 49152,
                                                       .hidden_size = 3072,
                                                       .intermediate_size = 12288,
                                                       .num_hidden_layers = 30,
                                                       .num_attention_heads = 24,
                                                       .num_key_value_heads = 2,
                                                       .max_position_embeddings = 4096},
                                             .activation = "gelu_pytorch_tanh",
                                             .tied = true,
                                             .norm_eps_key = "norm_epsilon",
                                             .embedding_dropout_key = "embedding_dropout",
                                             .residual_dropout_key = "residual_dropout"});
  read_rope(config, spec);
  read_uniform_window(config, spec, std::nullopt);
  spec.attention_bias = spec.attention_out_bias = spec.mlp_bias = config.flag("use_bias", true);
  return spec;
}

}  // namespace

const Family& starcoder2_family() {
  static const std::vector<RoleName> kNames = llama_names_with(kChanges);
  static const Family kFamily{"starcoder2", "model.", &read_config, kNames};
  return kFamily;
}

}  // namespace sft::model
