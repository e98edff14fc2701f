// A model family: how its config.json is read, and how Hugging Face names its tensors.
#pragma once

#include <array>
#include <span>
#include <string_view>
#include <vector>

#include "model/config_reader.h"
#include "model/tensor_role.h"
#include "sft/model/spec.h"

namespace sft::model {

struct RoleName {
  Role role;
  std::string_view name;        // without ".weight"; {} stands for the layer's number, a second one for the expert's
  std::string_view alias = {};  // another name that files have it under
  std::string_view module = {};  // what transformers and PEFT call the module itself, where that is another name
};

struct Family {
  std::string_view model_type;
  // transformers' base_model_prefix: a checkpoint of the bare model leaves it out.
  std::string_view base_prefix;
  DecoderSpec (*read_config)(const ConfigReader& config);
  std::span<const RoleName> names;
};

// Every family, by model_type.
std::span<const Family* const> all_families();

// ---- shared by the families ---------------------------------------------------------------------------------------

// The names that most rotary models since Llama share. Which of them a model has, its spec says.
std::span<const RoleName> llama_names();
// The same, but for the roles in `changes`.
std::vector<RoleName> llama_names_with(std::span<const RoleName> changes);

// Llama's keys.
DecoderSpec read_llama(const ConfigReader& config);

// What transformers' configuration class takes for a size that config.json leaves out.
struct SizeDefaults {
  int64_t vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads;
  int64_t num_key_value_heads = 0;  // 0: one per query head
  int64_t head_dim = 0;             // 0: hidden_size / num_attention_heads
  int64_t max_position_embeddings = 2048;
};
// Reads vocab_size ... max_position_embeddings; scores are scaled by head_dim^-0.5.
DecoderSpec read_sizes(const ConfigReader& config, const SizeDefaults& defaults);

// The keys that GPT-2 and GPT-J share: sizes (n_embd ...), norm_eps, activation and dropout; a plain MLP with biases.
struct GptDefaults {
  int64_t vocab_size, hidden_size, num_hidden_layers, num_attention_heads, max_position_embeddings;
  double dropout;
};
DecoderSpec read_gpt(const ConfigReader& config, const GptDefaults& defaults);

// The keys that Phi and StarCoder2 share: sizes, norm_eps, activation, dropout, tying and padding; LayerNorm and a plain MLP.
struct PlainMlpKeys {
  SizeDefaults sizes;
  const char* activation;
  bool tied;
  const char *norm_eps_key, *embedding_dropout_key, *residual_dropout_key;
};
DecoderSpec read_plain_mlp(const ConfigReader& config, const PlainMlpKeys& keys);

struct RopeKeys {
  double theta = 10000.0;
  double partial_rotary_factor = 1.0;
  bool can_be_partial = false;  // false: any other partial_rotary_factor is refused
  int64_t original_positions = 0;  // what the family says original_max_position_embeddings is when the file does not; 0: nothing
  const char* theta_key = "rope_theta";
  const char* partial_key = "partial_rotary_factor";
};
// The rotary positions of a config.json as transformers 5 writes it (rope_parameters) or as before (rope_theta and rope_scaling). Sets
// spec.ropes, and spec.longest_row where the scaling is right only up to some length.
void read_rope(const ConfigReader& config, DecoderSpec& spec, const RopeKeys& keys = {});
// One object {rope_type, rope_theta, factor, ...}; `rope` holds what is said outside of it. `config` is all of config.json.
RopeSpec read_rope_object(const ConfigReader& config, const ConfigReader& object, RopeSpec rope,
                          DecoderSpec& spec, bool can_be_partial = false);

// spec.layers: sliding_window in the layers that layer_types calls sliding_attention, or, without that key, for which `is_sliding` (null: none) holds.
void read_layer_types(const ConfigReader& config, DecoderSpec& spec, bool (*is_sliding)(int64_t layer, int64_t parameter),
                      int64_t parameter = 0);
// sliding_window, when there is one, in every layer.
void read_uniform_window(const ConfigReader& config, DecoderSpec& spec, std::optional<int64_t> fallback);

// What transformers' configuration class takes for a key of a mixture of experts that config.json leaves out.
struct MixtureDefaults {
  int64_t num_experts, num_experts_per_tok;
  int64_t expert_size = 0;  // of moe_intermediate_size; 0: the key is intermediate_size
  double router_aux_loss_coef = 0.001;
};
// Sets spec.mixture, and has_experts in every layer.
void read_mixture(const ConfigReader& config, DecoderSpec& spec, const MixtureDefaults& defaults);

// The activation that transformers calls so in ACT2FN.
ops::Activation activation_named(const ConfigReader& config, const char* key, const std::string& fallback);
// size / parts, or an error naming both keys when it does not divide.
int64_t divided(const ConfigReader& config, const char* size_key, int64_t size, const char* parts_key,
                int64_t parts);
// pad_token_id as torch.nn.Embedding's padding_idx: a negative one counts from the end.
std::optional<int64_t> padding_index(const ConfigReader& config, std::optional<int64_t> fallback,
                                     int64_t vocab_size);
// A number above 0, or none when the key is null; `fallback` when it is absent.
std::optional<double> optional_number(const ConfigReader& config, const char* key,
                                      std::optional<double> fallback);

}  // namespace sft::model
