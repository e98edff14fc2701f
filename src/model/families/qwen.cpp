// Qwen 2, 2.5 and 3: Llama with biases on q, k and v (Qwen 2) or norms on q and k (Qwen 3), and windows in
// the upper layers where asked for; with dense MLPs or, in all or some layers, a mixture of experts.
#include <algorithm>

#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kMixtureNames = {
    RoleName{Role::kRouter, "model.layers.{}.mlp.gate"},
    RoleName{Role::kExpertGate, "model.layers.{}.mlp.experts.{}.gate_proj"},
    RoleName{Role::kExpertUp, "model.layers.{}.mlp.experts.{}.up_proj"},
    RoleName{Role::kExpertDown, "model.layers.{}.mlp.experts.{}.down_proj"},
    RoleName{Role::kSharedGate, "model.layers.{}.mlp.shared_expert.gate_proj"},
    RoleName{Role::kSharedUp, "model.layers.{}.mlp.shared_expert.up_proj"},
    RoleName{Role::kSharedDown, "model.layers.{}.mlp.shared_expert.down_proj"},
    RoleName{Role::kSharedSwitch, "model.layers.{}.mlp.shared_expert_gate"},
};

constexpr SizeDefaults kDense{.vocab_size = 151936,
                              .hidden_size = 4096,
                              .intermediate_size = 22016,
                              .num_hidden_layers = 32,
                              .num_attention_heads = 32,
                              .num_key_value_heads = 32,
                              .max_position_embeddings = 32768};

bool from_layer(int64_t layer, int64_t first) {
  return layer >= first;
}
// What Qwen2-MoE's configuration makes of max_window_layers.
bool every_other_below(int64_t layer, int64_t end) {
  return layer % 2 == 0 && layer < end;
}

DecoderSpec read_common(const ConfigReader& config, const SizeDefaults& sizes) {
  DecoderSpec spec = read_sizes(config, sizes);
  spec.norm_kind = ops::NormKind::kRmsNorm;
  spec.norm_eps = config.positive_number("rms_norm_eps", 1e-6);
  read_rope(config, spec);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  spec.activation = activation_named(config, "hidden_act", "silu");
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  spec.padding_idx = padding_index(config, std::nullopt, spec.vocab_size);
  return spec;
}

bool uses_windows(const ConfigReader& config) {
  return config.flag("use_sliding_window", false) &&
         (config.has("sliding_window") || !config.contains("sliding_window"));
}

void read_windows(const ConfigReader& config, DecoderSpec& spec,
                  bool (*is_sliding)(int64_t layer, int64_t max_window_layers)) {
  read_layer_types(config, spec, uses_windows(config) ? is_sliding : nullptr,
                   config.integer("max_window_layers").value_or(28));
}

DecoderSpec read_qwen2(const ConfigReader& config) {
  DecoderSpec spec = read_common(config, kDense);
  read_windows(config, spec, &from_layer);
  spec.attention_bias = true;
  return spec;
}

void read_qwen3_attention(const ConfigReader& config, DecoderSpec& spec) {
  spec.attention_bias = spec.attention_out_bias = config.flag("attention_bias", false);
  spec.qk_norm = QkNorm::kPerHead;
}

DecoderSpec read_qwen3(const ConfigReader& config) {
  SizeDefaults sizes = kDense;
  sizes.head_dim = 128;
  DecoderSpec spec = read_common(config, sizes);
  read_windows(config, spec, &from_layer);
  read_qwen3_attention(config, spec);
  return spec;
}

// Layers that keep an MLP beside those with experts.
void read_dense_layers(const ConfigReader& config, DecoderSpec& spec) {
  const int64_t step = config.positive("decoder_sparse_step", 1);
  const std::vector<double> named = config.numbers("mlp_only_layers");
  for (int64_t layer = 0; layer < spec.num_hidden_layers; ++layer) {
    const bool is_named = std::ranges::find(named, static_cast<double>(layer)) != named.end();
    if (is_named || (layer + 1) % step != 0) spec.layers[static_cast<std::size_t>(layer)].has_experts = false;
  }
  if (std::ranges::none_of(spec.layers, &LayerSpec::has_experts)) spec.mixture.reset();
}

DecoderSpec read_qwen2_moe(const ConfigReader& config) {
  DecoderSpec spec = read_common(config, {.vocab_size = 151936,
                                          .hidden_size = 2048,
                                          .intermediate_size = 5632,
                                          .num_hidden_layers = 24,
                                          .num_attention_heads = 16,
                                          .num_key_value_heads = 16,
                                          .max_position_embeddings = 32768});
  read_windows(config, spec, &every_other_below);
  spec.attention_bias = config.flag("qkv_bias", true);
  read_mixture(config, spec, {.num_experts = 60, .num_experts_per_tok = 4, .expert_size = 1408});
  spec.mixture->shared_expert_size = config.positive("shared_expert_intermediate_size", 5632);
  read_dense_layers(config, spec);
  return spec;
}

DecoderSpec read_qwen3_moe(const ConfigReader& config) {
  DecoderSpec spec = read_common(config, {.vocab_size = 151936,
                                          .hidden_size = 2048,
                                          .intermediate_size = 6144,
                                          .num_hidden_layers = 24,
                                          .num_attention_heads = 32,
                                          .num_key_value_heads = 4,
                                          .max_position_embeddings = 32768});
  if (uses_windows(config)) read_uniform_window(config, spec, 4096);
  read_qwen3_attention(config, spec);
  read_mixture(config, spec, {.num_experts = 128, .num_experts_per_tok = 8, .expert_size = 768});
  read_dense_layers(config, spec);
  return spec;
}

std::span<const RoleName> mixture_names() {
  static const std::vector<RoleName> kNames = llama_names_with(kMixtureNames);
  return kNames;
}

}  // namespace

const Family& qwen2_family() {
  static const Family kFamily{"qwen2", "model.", &read_qwen2, llama_names()};
  return kFamily;
}

const Family& qwen2_moe_family() {
  static const Family kFamily{"qwen2_moe", "model.", &read_qwen2_moe, mixture_names()};
  return kFamily;
}

const Family& qwen3_family() {
  static const Family kFamily{"qwen3", "model.", &read_qwen3, llama_names()};
  return kFamily;
}

const Family& qwen3_moe_family() {
  static const Family kFamily{"qwen3_moe", "model.", &read_qwen3_moe, mixture_names()};
  return kFamily;
}

}  // namespace sft::model
