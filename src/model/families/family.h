// A model family: how its config.json is read, and how Hugging Face names its tensors.
#pragma once

#include <array>
#include <span>
#include <string_view>

#include "model/config_reader.h"
#include "model/tensor_role.h"
#include "sft/model/spec.h"

namespace sft::model {

struct RoleName {
  Role role;
  std::string_view name;  // without ".weight"; {} stands for the layer's number
};

struct Family {
  std::string_view model_type;
  // transformers' base_model_prefix: a checkpoint of the bare model leaves it out.
  std::string_view base_prefix;
  DecoderSpec (*read_config)(const ConfigReader& config);
  std::span<const RoleName> names;
};

const Family& llama_family();
const Family& opt_family();
const Family& gpt2_family();

inline std::array<const Family*, 3> all_families() {
  return {&gpt2_family(), &llama_family(), &opt_family()};
}

// ---- shared by the families
// ------------------------------------------------------------------------------------------------- The
// activation that transformers calls so in ACT2FN.
ops::Activation activation_named(const ConfigReader& config, const char* key, const std::string& fallback);
// size / parts, or an error naming both keys when it does not divide.
int64_t divided(const ConfigReader& config, const char* size_key, int64_t size, const char* parts_key,
                int64_t parts);
// pad_token_id as torch.nn.Embedding's padding_idx: a negative one counts from the end.
std::optional<int64_t> padding_index(const ConfigReader& config, std::optional<int64_t> fallback,
                                     int64_t vocab_size);

}  // namespace sft::model
