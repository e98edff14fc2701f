// What a decoder-only model is, as data: one decoder (decoder.h) serves every family by reading this.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "sft/ops/ops.h"

namespace sft::model {

enum class PositionKind { kLearned, kRotary, kAlibi };
// Where a sublayer (attention, MLP) is normalised: its input, the residual sum, its output before the residual is added, input and output.
enum class NormPlacement { kPre, kPost, kOutput, kSandwich };
// Norms of queries and keys before the rotation: none, over each head's features, over all heads together.
enum class QkNorm { kNone, kPerHead, kWhole };
// How q, k and v are stored: three tensors; one tensor of all queries, then keys, then values; one tensor of key/value groups, each with its
// queries, its key and its value.
enum class QkvLayout { kSeparate, kBlocks, kGroups };
enum class RopeScaling { kNone, kLinear, kLlama3, kYarn, kLongrope };

// Rotary positions: tables of cos and sin, made by rope.h.
struct RopeSpec {
  int64_t rotary_dim = 0;  // the first features of each head are rotated
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0, beta_slow = 1.0;              // yarn
  bool truncate = true;                                  // yarn
  std::vector<double> short_factor;                      // longrope: [rotary_dim / 2], for rows within the original positions
  int64_t original_max_position_embeddings = 0;
  double attention_factor = 1.0;  // multiplies cos and sin
};

// A mixture of experts in place of an MLP: a router gives each token num_experts_per_tok of num_experts gated MLPs without biases.
struct MixtureSpec {
  int64_t num_experts = 0, num_experts_per_tok = 0;
  int64_t expert_size = 0;         // intermediate size of an expert
  int64_t shared_expert_size = 0;  // of an expert for all tokens, with a gate of its own; 0: there is none
  bool norm_topk_prob = false;     // the weights of a token's experts add up to 1
  bool stacked_experts = false;    // files hold the experts' gates and ups in one tensor and their downs in one
  double router_aux_loss_coef = 0.0;  // of the load-balancing loss, as config.json has it
};

// What differs from layer to layer.
struct LayerSpec {
  std::optional<int64_t> sliding_window;  // keys a query sees, its own included
  std::optional<int> rope = 0;            // index into DecoderSpec::ropes; none: no positions in this layer
  bool has_experts = false;               // DecoderSpec::mixture instead of an MLP
};

// Names of fields follow Hugging Face config.json where one exists.
struct DecoderSpec {
  std::string model_type;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t embedding_size = 0;  // word_embed_proj_dim; != hidden_size adds project_in / project_out
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0;
  int64_t intermediate_size = 0;
  int64_t max_position_embeddings = 0;
  std::optional<int64_t> longest_row;  // positions exist (or are right) only up to here; unset: any length runs

  ops::NormKind norm_kind = ops::NormKind::kLayerNorm;
  NormPlacement norm_placement = NormPlacement::kPre;
  double norm_eps = 1e-5;
  bool norm_affine = true;        // norms have weights (and, LayerNorm, biases)
  bool norm_unit_offset = false;  // the stored weight w stands for 1 + w (Gemma)
  bool final_norm = true;
  bool embedding_norm = false;    // BLOOM

  bool parallel_residual = false;    // x + attention(norm x) + mlp(norm x); otherwise one after the other
  bool shared_parallel_norm = false; // one norm for both
  double residual_multiplier = 1.0;  // of what a sublayer adds

  PositionKind position_kind = PositionKind::kRotary;
  int64_t position_offset = 0;      // OPT: 2
  std::vector<RopeSpec> ropes;      // kRotary: at least one
  ops::RotaryLayout rotary_layout = ops::RotaryLayout::kHalves;
  std::vector<LayerSpec> layers;    // [num_hidden_layers]
  std::vector<double> alibi_slopes; // kAlibi: [num_attention_heads]

  double attention_scale = 1.0;  // of the scores; usually head_dim^-0.5
  std::optional<double> attention_softcap, logit_softcap;
  double embedding_scale = 1.0, logit_scale = 1.0;
  bool scaled_embedding = false;  // the scale belongs to the embedding: NEFTune's noise comes after it
  QkNorm qk_norm = QkNorm::kNone;
  bool attention_bias = false, attention_out_bias = false;
  bool gated_mlp = true, mlp_bias = false;
  ops::Activation activation = ops::Activation::kSilu;
  std::optional<MixtureSpec> mixture;

  bool tie_word_embeddings = false;
  bool output_embedding_from_input = false;  // its own tensor here, but in the model's files that of the input (adapters untie them)
  bool head_bias = false;
  std::optional<int64_t> padding_idx;  // embedding row without input-side gradient

  double embedding_dropout = 0.0, residual_dropout = 0.0, attention_dropout = 0.0;

  bool transposed_linear = false;      // GPT-2's Conv1D: weights [in, out]
  QkvLayout qkv_layout = QkvLayout::kSeparate;
  bool fused_gate_up = false;          // one tensor [gate | up]
  bool hf_counts_first_label = false;  // transformers' loss divisor also counts column 0 (GPT-2): only for trl_compat

  int64_t num_parameters = 0;          // tied weights once; filled by Decoder
};

// Local. Error(kInvalidData) naming the file, the key and what is supported (an unknown model_type lists the known ones).
DecoderSpec spec_from_config_json(const std::string& text, const std::string& file_name);

// In a folder with a tokenizer: .jinja files, chat templates besides the default one, as transformers keeps them.
inline constexpr const char* kNamedTemplatesFolder = "additional_chat_templates";

// Local. A model or adapter that somebody else packed must not make other files of this machine part of it: they would go into checkpoints.
// Error(kInvalidData) naming a link that leads out of the folder and the cache (docs/security.md).
void check_links(const std::filesystem::path& model_dir);

// Local. The same of a model folder with its weights: where these hold an output embedding that is not the input's, it is not tied, whatever
// config.json says (a warning), as in transformers.
DecoderSpec spec_of_model(const std::filesystem::path& model_dir);

// Local. A folder with config.json, or a repository id in the local Hugging Face cache (HF_HUB_CACHE, HF_HOME, ... as huggingface_hub).
// Error(kInvalidData): neither, or one of its files is a link to somewhere else (docs/security.md).
std::filesystem::path resolve_model_dir(const std::string& model_name_or_path);
// Local. The same of a tokenizer, which needs no config.json.
std::filesystem::path resolve_tokenizer_dir(const std::string& tokenizer_name_or_path);

}  // namespace sft::model
