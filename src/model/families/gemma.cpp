// Gemma 1, 2 and 3 (text): scaled embeddings, norm weights stored as w for 1 + w, gated GELU. Gemma 2 adds
// norms around each sublayer, soft caps and alternating windows; Gemma 3 norms q and k, and gives windowed
// and full layers rotary bases of their own.
#include <cmath>

#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kSandwichNorms = {
    RoleName{Role::kAttentionOutputNorm, "model.layers.{}.post_attention_layernorm"},
    RoleName{Role::kMlpNorm, "model.layers.{}.pre_feedforward_layernorm"},
    RoleName{Role::kMlpOutputNorm, "model.layers.{}.post_feedforward_layernorm"},
};

std::span<const RoleName> sandwich_names() {
  static const std::vector<RoleName> kNames = llama_names_with(kSandwichNorms);
  return kNames;
}

DecoderSpec read_common(const ConfigReader& config, const SizeDefaults& defaults) {
  config.require_flag("use_bidirectional_attention", false);
  DecoderSpec spec = read_sizes(config, defaults);
  spec.norm_kind = ops::NormKind::kRmsNorm;
  spec.norm_unit_offset = true;
  spec.norm_eps = config.positive_number("rms_norm_eps", 1e-6);
  // transformers keeps the scale as a float32 tensor.
  spec.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(spec.hidden_size)));
  spec.scaled_embedding = true;
  spec.attention_bias = spec.attention_out_bias = config.flag("attention_bias", false);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", true);
  spec.padding_idx = padding_index(config, 0, spec.vocab_size);
  return spec;
}

DecoderSpec read_gemma(const ConfigReader& config) {
  DecoderSpec spec = read_common(config, {256000, 3072, 24576, 28, 16, 16, 256, 8192});
  read_rope(config, spec);
  // Released files say "gelu" and mean the tanh form; transformers reads hidden_act only.
  spec.activation = activation_named(config, "hidden_act", "gelu_pytorch_tanh");
  if (spec.activation == ops::Activation::kGelu) spec.activation = ops::Activation::kGeluTanh;
  return spec;
}

// sliding_window_pattern: every so many layers, one sees everything.
bool between_full_layers(int64_t layer, int64_t pattern) {
  return (layer + 1) % pattern != 0;
}

DecoderSpec read_sandwich(const ConfigReader& config, int64_t vocab_size, int64_t positions,
                          int64_t pattern) {
  DecoderSpec spec = read_common(config, {vocab_size, 2304, 9216, 26, 8, 4, 256, positions});
  spec.norm_placement = NormPlacement::kSandwich;
  spec.attention_scale = 1.0 / std::sqrt(config.positive_number("query_pre_attn_scalar", 256.0));
  spec.activation = activation_named(config, "hidden_activation", "gelu_pytorch_tanh");
  read_layer_types(config, spec, &between_full_layers, pattern);
  return spec;
}

DecoderSpec read_gemma2(const ConfigReader& config) {
  DecoderSpec spec = read_sandwich(config, 256000, 8192, 2);
  read_rope(config, spec);
  spec.attention_softcap = optional_number(config, "attn_logit_softcapping", 50.0);
  spec.logit_softcap = optional_number(config, "final_logit_softcapping", 30.0);
  return spec;
}

// transformers 5: rope_parameters has an object per layer type. Before: rope_theta and rope_scaling for full
// layers, rope_local_base_freq for windowed ones.
void read_two_ropes(const ConfigReader& config, DecoderSpec& spec) {
  constexpr const char* kTypes[] = {"full_attention", "sliding_attention"};
  RopeSpec ropes[2];
  ropes[0].rotary_dim = ropes[1].rotary_dim = spec.head_dim;
  ropes[0].theta = config.positive_number("rope_theta", 1'000'000.0);
  ropes[1].theta = config.positive_number("rope_local_base_freq", 10'000.0);
  if (spec.head_dim % 2 != 0) config.unsupported("head_dim", "an even number (rotary positions)");
  if (config.has("rope_parameters")) {
    const ConfigReader parameters = config.object("rope_parameters");
    for (const int i : {0, 1}) {
      if (parameters.has(kTypes[i]))
        ropes[i] = read_rope_object(config, parameters.object(kTypes[i]), ropes[i], spec);
    }
  }
  if (config.has("rope_scaling"))
    ropes[0] = read_rope_object(config, config.object("rope_scaling"), ropes[0], spec);
  spec.ropes = {ropes[0], ropes[1]};
  for (LayerSpec& layer : spec.layers) layer.rope = layer.sliding_window ? 1 : 0;
}

DecoderSpec read_gemma3_text(const ConfigReader& config) {
  DecoderSpec spec = read_sandwich(config, 262208, 131072, config.positive("sliding_window_pattern", 6));
  read_two_ropes(config, spec);
  spec.qk_norm = QkNorm::kPerHead;
  // transformers' Gemma 3 reads the key and does not apply it.
  if (config.has("attn_logit_softcapping")) config.unsupported("attn_logit_softcapping", "null");
  spec.logit_softcap = optional_number(config, "final_logit_softcapping", std::nullopt);
  return spec;
}

}  // namespace

const Family& gemma_family() {
  static const Family kFamily{"gemma", "model.", &read_gemma, llama_names()};
  return kFamily;
}

const Family& gemma2_family() {
  static const Family kFamily{"gemma2", "model.", &read_gemma2, sandwich_names()};
  return kFamily;
}

const Family& gemma3_text_family() {
  static const Family kFamily{"gemma3_text", "model.", &read_gemma3_text, sandwich_names()};
  return kFamily;
}

}  // namespace sft::model
