// Mistral: Llama with attention in a sliding window. Mixtral: the same with a mixture of experts.
#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kMixtureNames = {
    RoleName{Role::kRouter, "model.layers.{}.block_sparse_moe.gate"},
    RoleName{Role::kExpertGate, "model.layers.{}.block_sparse_moe.experts.{}.w1"},
    RoleName{Role::kExpertUp, "model.layers.{}.block_sparse_moe.experts.{}.w3"},
    RoleName{Role::kExpertDown, "model.layers.{}.block_sparse_moe.experts.{}.w2"},
};

struct Defaults {
  double norm_eps, theta;
  std::optional<int64_t> window = {};
};

DecoderSpec read_common(const ConfigReader& config, const Defaults& defaults) {
  DecoderSpec spec = read_sizes(config, {.vocab_size = 32000,
                                         .hidden_size = 4096,
                                         .intermediate_size = 14336,
                                         .num_hidden_layers = 32,
                                         .num_attention_heads = 32,
                                         .num_key_value_heads = 8,
                                         .max_position_embeddings = 131072});
  spec.norm_kind = ops::NormKind::kRmsNorm;
  spec.norm_eps = config.positive_number("rms_norm_eps", defaults.norm_eps);
  read_rope(config, spec, {.theta = defaults.theta});
  read_uniform_window(config, spec, defaults.window);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  spec.activation = activation_named(config, "hidden_act", "silu");
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  spec.padding_idx = padding_index(config, std::nullopt, spec.vocab_size);
  return spec;
}

// With layer_types transformers takes it for a Ministral: windows in some layers only, in all where the key is null.
DecoderSpec read_mistral(const ConfigReader& config) {
  DecoderSpec spec = read_common(config, {.norm_eps = 1e-6, .theta = 1e4, .window = 4096});
  if (!config.has("layer_types")) return spec;
  spec.layers.clear();
  read_layer_types(config, spec, nullptr);
  return spec;
}

DecoderSpec read_mixtral(const ConfigReader& config) {
  if (config.number("router_jitter_noise", 0.0) != 0.0) config.unsupported("router_jitter_noise", "0");
  DecoderSpec spec = read_common(config, {.norm_eps = 1e-5, .theta = 1e6});
  read_mixture(config, spec, {.num_experts = 8, .num_experts_per_tok = 2});
  spec.mixture->norm_topk_prob = true;
  return spec;
}

}  // namespace

const Family& mistral_family() {
  static const Family kFamily{"mistral", "model.", &read_mistral, llama_names()};
  return kFamily;
}

const Family& mixtral_family() {
  static const std::vector<RoleName> kNames = llama_names_with(kMixtureNames);
  static const Family kFamily{"mixtral", "model.", &read_mixtral, kNames};
  return kFamily;
}

}  // namespace sft::model
