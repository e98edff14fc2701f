// What a decoder-only model is, as data: one decoder (decoder.h) serves every family by reading this.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "sft/ops/ops.h"

namespace sft::model {

enum class PositionKind { kLearned, kRotary };
enum class NormPlacement { kPre, kPost };
enum class RopeScaling { kNone, kLinear, kLlama3 };

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

  ops::NormKind norm_kind = ops::NormKind::kLayerNorm;
  NormPlacement norm_placement = NormPlacement::kPre;
  double norm_eps = 1e-5;
  bool norm_affine = true;     // norms have weights (and, LayerNorm, biases)
  bool final_norm = true;

  PositionKind position_kind = PositionKind::kRotary;
  int64_t position_offset = 0;  // OPT: 2
  double rope_theta = 10000.0;
  RopeScaling rope_scaling = RopeScaling::kNone;
  double rope_factor = 1.0, rope_low_freq_factor = 1.0, rope_high_freq_factor = 4.0;
  int64_t rope_original_max_position_embeddings = 0;

  double attention_scale = 1.0;  // of the scores; usually head_dim^-0.5
  bool attention_bias = false, attention_out_bias = false;
  bool gated_mlp = true, mlp_bias = false;
  ops::Activation activation = ops::Activation::kSilu;

  bool tie_word_embeddings = false;
  bool output_embedding_from_input = false;  // its own tensor here, but in the model's files that of the input (adapters untie them)
  bool head_bias = false;
  std::optional<int64_t> padding_idx;  // embedding row without input-side gradient

  double embedding_dropout = 0.0, residual_dropout = 0.0, attention_dropout = 0.0;

  bool transposed_linear = false;      // GPT-2's Conv1D: weights [in, out]
  bool fused_qkv = false;              // one tensor for q, k, v (GPT-2's c_attn)
  bool hf_counts_first_label = false;  // transformers' loss divisor also counts column 0 (GPT-2): only for trl_compat

  int64_t num_parameters = 0;          // tied weights once; filled by Decoder
};

// Local. Error(kInvalidData) naming the file, the key and what is supported (an unknown model_type lists the known ones).
DecoderSpec spec_from_config_json(const std::string& text, const std::string& file_name);

// Local. A folder with config.json, or a repository id in the local Hugging Face cache (HF_HUB_CACHE, HF_HOME, ~/.cache/huggingface/hub).
std::filesystem::path resolve_model_dir(const std::string& model_name_or_path);

}  // namespace sft::model
