// Keys of config.json that many families read alike.
#include <algorithm>
#include <cmath>

#include "model/families/family.h"
#include "sft/base/error.h"

namespace sft::model {
namespace {

constexpr std::array kLlamaNames = {
    RoleName{Role::kTokenEmbedding, "model.embed_tokens"},
    RoleName{Role::kQuery, "model.layers.{}.self_attn.q_proj"},
    RoleName{Role::kKey, "model.layers.{}.self_attn.k_proj"},
    RoleName{Role::kValue, "model.layers.{}.self_attn.v_proj"},
    RoleName{Role::kAttentionOut, "model.layers.{}.self_attn.o_proj"},
    RoleName{Role::kQueryNorm, "model.layers.{}.self_attn.q_norm"},
    RoleName{Role::kKeyNorm, "model.layers.{}.self_attn.k_norm"},
    RoleName{Role::kGate, "model.layers.{}.mlp.gate_proj"},
    RoleName{Role::kUp, "model.layers.{}.mlp.up_proj"},
    RoleName{Role::kDown, "model.layers.{}.mlp.down_proj"},
    RoleName{Role::kAttentionNorm, "model.layers.{}.input_layernorm"},
    RoleName{Role::kSharedNorm, "model.layers.{}.input_layernorm"},
    RoleName{Role::kMlpNorm, "model.layers.{}.post_attention_layernorm"},
    RoleName{Role::kOutputEmbedding, "lm_head"},
    RoleName{Role::kFinalNorm, "model.norm"},
};

}  // namespace

std::span<const RoleName> llama_names() {
  return kLlamaNames;
}

std::vector<RoleName> llama_names_with(std::span<const RoleName> changes) {
  std::vector<RoleName> names(changes.begin(), changes.end());
  for (const RoleName& name : kLlamaNames) {
    if (std::ranges::find(changes, name.role, &RoleName::role) == changes.end()) names.push_back(name);
  }
  return names;
}

DecoderSpec read_sizes(const ConfigReader& config, const SizeDefaults& defaults) {
  DecoderSpec spec;
  spec.vocab_size = config.positive("vocab_size", defaults.vocab_size);
  spec.hidden_size = spec.embedding_size = config.positive("hidden_size", defaults.hidden_size);
  spec.intermediate_size = config.positive("intermediate_size", defaults.intermediate_size);
  spec.num_hidden_layers = config.positive("num_hidden_layers", defaults.num_hidden_layers);
  spec.num_attention_heads = config.positive("num_attention_heads", defaults.num_attention_heads);
  // A null num_key_value_heads means one per query head, an absent one the family's default.
  const bool absent = !config.contains("num_key_value_heads") && defaults.num_key_value_heads != 0;
  spec.num_key_value_heads = config.positive(
      "num_key_value_heads", absent ? defaults.num_key_value_heads : spec.num_attention_heads);
  divided(config, "num_attention_heads", spec.num_attention_heads, "num_key_value_heads",
          spec.num_key_value_heads);
  spec.head_dim =
      config.has("head_dim") || defaults.head_dim != 0
          ? config.positive("head_dim", defaults.head_dim)
          : divided(config, "hidden_size", spec.hidden_size, "num_attention_heads", spec.num_attention_heads);
  spec.max_position_embeddings = config.positive("max_position_embeddings", defaults.max_position_embeddings);
  spec.attention_scale = 1.0 / std::sqrt(static_cast<double>(spec.head_dim));
  return spec;
}

DecoderSpec read_gpt(const ConfigReader& config, const GptDefaults& defaults) {
  DecoderSpec spec;
  spec.vocab_size = config.positive("vocab_size", defaults.vocab_size);
  spec.hidden_size = spec.embedding_size = config.positive("n_embd", defaults.hidden_size);
  spec.intermediate_size = config.positive("n_inner", 4 * spec.hidden_size);
  spec.num_hidden_layers = config.positive("n_layer", defaults.num_hidden_layers);
  spec.num_attention_heads = spec.num_key_value_heads =
      config.positive("n_head", defaults.num_attention_heads);
  spec.head_dim = divided(config, "n_embd", spec.hidden_size, "n_head", spec.num_attention_heads);
  spec.attention_scale = 1.0 / std::sqrt(static_cast<double>(spec.head_dim));
  // Learned positions, or transformers' table of angles, end there.
  spec.max_position_embeddings = config.positive("n_positions", defaults.max_position_embeddings);
  spec.longest_row = spec.max_position_embeddings;
  spec.norm_eps = config.positive_number("layer_norm_epsilon", 1e-5);
  spec.gated_mlp = false;
  spec.mlp_bias = true;
  spec.activation = activation_named(config, "activation_function", "gelu_new");
  spec.embedding_dropout = config.probability("embd_pdrop", defaults.dropout);
  spec.residual_dropout = config.probability("resid_pdrop", defaults.dropout);
  spec.attention_dropout = config.probability("attn_pdrop", defaults.dropout);
  return spec;
}

DecoderSpec read_plain_mlp(const ConfigReader& config, const PlainMlpKeys& keys) {
  DecoderSpec spec = read_sizes(config, keys.sizes);
  spec.norm_eps = config.positive_number(keys.norm_eps_key, 1e-5);
  spec.gated_mlp = false;
  spec.activation = activation_named(config, "hidden_act", keys.activation);
  spec.embedding_dropout = config.probability(keys.embedding_dropout_key, 0.0);
  spec.residual_dropout = config.probability(keys.residual_dropout_key, 0.0);
  spec.attention_dropout = config.probability("attention_dropout", 0.0);
  spec.tie_word_embeddings = config.flag("tie_word_embeddings", keys.tied);
  spec.padding_idx = padding_index(config, std::nullopt, spec.vocab_size);
  return spec;
}

void read_layer_types(const ConfigReader& config, DecoderSpec& spec,
                      bool (*is_sliding)(int64_t layer, int64_t parameter), int64_t parameter) {
  spec.layers.resize(static_cast<std::size_t>(spec.num_hidden_layers));
  const std::optional<std::vector<std::string>> types = config.texts("layer_types");
  if (types && types->size() != spec.layers.size()) {
    config.unsupported("layer_types", "one entry for each of num_hidden_layers layers");
  }
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    if (types && (*types)[i] != "sliding_attention" && (*types)[i] != "full_attention") {
      config.unsupported("layer_types", "full_attention, sliding_attention");
    }
    const bool sliding = types ? (*types)[i] == "sliding_attention"
                               : is_sliding != nullptr && is_sliding(static_cast<int64_t>(i), parameter);
    if (!sliding) continue;
    if (config.contains("sliding_window") && !config.has("sliding_window")) {
      config.unsupported("sliding_window", "a number of tokens, as some layers attend within a window");
    }
    spec.layers[i].sliding_window = config.positive("sliding_window", 4096);
  }
}

void read_uniform_window(const ConfigReader& config, DecoderSpec& spec, std::optional<int64_t> fallback) {
  spec.layers.resize(static_cast<std::size_t>(spec.num_hidden_layers));
  if (config.contains("sliding_window") && !config.has("sliding_window")) return;
  if (!config.has("sliding_window") && !fallback) return;
  const int64_t window = config.positive("sliding_window", fallback.value_or(0));
  for (LayerSpec& layer : spec.layers) layer.sliding_window = window;
}

void read_mixture(const ConfigReader& config, DecoderSpec& spec, const MixtureDefaults& defaults) {
  MixtureSpec mixture;
  const char* count_key = config.has("num_local_experts") ? "num_local_experts" : "num_experts";
  mixture.num_experts = config.positive(count_key, defaults.num_experts);
  mixture.num_experts_per_tok = config.positive("num_experts_per_tok", defaults.num_experts_per_tok);
  if (mixture.num_experts_per_tok > mixture.num_experts)
    config.unsupported("num_experts_per_tok", "at most " + std::to_string(mixture.num_experts) + " experts");
  mixture.expert_size = defaults.expert_size == 0
                            ? spec.intermediate_size
                            : config.positive("moe_intermediate_size", defaults.expert_size);
  mixture.norm_topk_prob = config.flag("norm_topk_prob", false);
  mixture.router_aux_loss_coef = config.number("router_aux_loss_coef", defaults.router_aux_loss_coef);
  if (mixture.router_aux_loss_coef < 0) config.unsupported("router_aux_loss_coef", "a number, 0 or more");
  spec.mixture = mixture;
  spec.layers.resize(static_cast<std::size_t>(spec.num_hidden_layers));
  for (LayerSpec& layer : spec.layers) layer.has_experts = true;
}

ops::Activation activation_named(const ConfigReader& config, const char* key, const std::string& fallback) {
  const std::string name = config.text(key, fallback);
  if (name == "relu") return ops::Activation::kRelu;
  if (name == "gelu") return ops::Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast")
    return ops::Activation::kGeluTanh;
  if (name == "silu" || name == "swish") return ops::Activation::kSilu;
  config.unsupported(key, "relu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, silu, swish");
}

int64_t divided(const ConfigReader& config, const char* size_key, int64_t size, const char* parts_key,
                int64_t parts) {
  if (size % parts != 0) {
    base::fail(base::ExitCode::kInvalidData, "{}: {} = {} is not a multiple of {} = {}", config.file_name(),
               size_key, size, parts_key, parts);
  }
  return size / parts;
}

std::optional<int64_t> padding_index(const ConfigReader& config, std::optional<int64_t> fallback,
                                     int64_t vocab_size) {
  // A null pad_token_id means none; only an absent one means the family's default.
  const std::optional<int64_t> id =
      config.contains("pad_token_id") ? config.integer("pad_token_id") : fallback;
  if (!id) return std::nullopt;
  if (*id >= vocab_size || *id < -vocab_size)
    config.unsupported("pad_token_id", "a token id below vocab_size");
  return *id < 0 ? *id + vocab_size : *id;
}

std::optional<double> optional_number(const ConfigReader& config, const char* key,
                                      std::optional<double> fallback) {
  if (!config.contains(key)) return fallback;
  if (!config.has(key)) return std::nullopt;
  return config.positive_number(key, 0.0);
}

}  // namespace sft::model
