// Arguments of Hugging Face's TrainingArguments, SFTConfig, ModelConfig and SFTTrainer for which there is no
// option here.
#pragma once

#include <string>
#include <vector>

namespace sft::config {

struct HfArgument {
  std::string name;
  bool any_value_is_harmless;
  // Else: the values that ask for nothing, in canonical form (hf_arguments.cpp), and what to do about any
  // other.
  std::vector<std::string> harmless;
  // For the person who gave it: what to do instead, or (where every value is harmless) what to know. May be
  // empty then.
  std::string advice;
  // Values that are taken although they ask for something else, with the advice as a notice.
  std::vector<std::string> taken_with_advice = {};
};

const std::vector<HfArgument>& hf_arguments();
const HfArgument* find_hf_argument(const std::string& name);  // null: not such a name

// Whether the argument can be left out without changing the result of a run.
bool is_harmless(const HfArgument& argument, const std::string& value);
bool is_taken_with_advice(const HfArgument& argument, const std::string& value);

}  // namespace sft::config
