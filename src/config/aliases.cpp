// Other names of options: of older versions of transformers and TRL, and of SFTTrainer's arguments.
#include <algorithm>

#include "option_table.h"
#include "words.h"

namespace sft::config {
namespace {

Alias::Converted if_true(const char* value, const std::string& text) {
  if (is_none(text)) return {};
  const auto flag = parse_bool(text);
  if (!flag) return {.problem = "must be true or false"};
  if (!*flag) return {.withdrawn = value};
  return {.value = value};
}

// use_cpu, no_cuda
Alias::Converted cpu_if_true(const std::string& text) {
  return if_true("cpu", text);
}

// group_by_length
Alias::Converted grouped_if_true(const std::string& text) {
  return if_true("group_by_length", text);
}

// TRL's None: transformers' argument decides.
Alias::Converted unless_none(const std::string& text) {
  if (is_none(text)) return {};
  return {.value = text};
}

// A ratio of 1 would be one step under the option's name.
Alias::Converted ratio(const std::string& text) {
  if (is_none(text)) return {};
  const auto value = parse_number<double>(text);
  if (!value || *value < 0 || *value >= 1) return {.problem = "must be a fraction of all steps in [0, 1)"};
  return {.value = text};
}

}  // namespace

const std::vector<Alias>& aliases() {
  static const std::vector<Alias> list{
      {"model", "model_name_or_path"},
      {"model_name", "model_name_or_path"},
      {"tokenizer", "tokenizer_name_or_path"},
      {"tokenizer_name", "tokenizer_name_or_path"},
      {"processing_class", "tokenizer_name_or_path"},
      {"dataset_train_split", "dataset_split"},
      {"dataset_test_split", "eval_split"},
      {"max_seq_length", "max_length"},
      {"per_gpu_train_batch_size", "per_device_train_batch_size"},
      {"per_gpu_eval_batch_size", "per_device_eval_batch_size"},
      {"warmup_ratio", "warmup_steps", "a fraction of all steps", ratio},
      {"activation_checkpointing", "gradient_checkpointing", "None leaves it as it is", unless_none},
      {"evaluation_strategy", "eval_strategy"},
      {"group_by_length", "train_sampling_strategy", "true is train_sampling_strategy = group_by_length",
       grouped_if_true},
      {"use_cpu", "device", "true is device = cpu", cpu_if_true},
      {"no_cuda", "device", "true is device = cpu", cpu_if_true},
  };
  return list;
}

const Alias* find_alias(const std::string& name) {
  const auto& list = aliases();
  const auto found =
      std::find_if(list.begin(), list.end(), [&](const Alias& alias) { return alias.name == name; });
  return found == list.end() ? nullptr : &*found;
}

}  // namespace sft::config
