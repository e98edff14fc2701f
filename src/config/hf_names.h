// Arguments of TrainingArguments, SFTConfig and ModelConfig that sft-dist has no option for.
#pragma once

#include <optional>
#include <string>

namespace sft::config {

struct HfArgument {
  std::string name;
  // Values (lower case) under which the argument changes nothing here. Empty: any value has no effect on
  // results.
  std::string harmless;  // separated by '|'
  std::string remedy;    // said when the value is another one
};

const HfArgument* find_hf_argument(const std::string& name);  // null: not a name of Hugging Face's

// What is wrong with giving it this value, or nothing: then it is merely without effect.
std::optional<std::string> hf_argument_problem(const HfArgument& argument, const std::string& value);

}  // namespace sft::config
