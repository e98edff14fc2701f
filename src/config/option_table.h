// The one table of options. Parser, help, documentation, dumps and range checks are loops over it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "sft/config/options.h"

namespace sft::config {

struct OptionRow {
  std::string group;  // heading in help and documentation
  std::string name;   // as in Hugging Face where the option exists there
  std::string type;   // "int", "float", "bool", "str", "... or None"
  std::string default_text;
  std::string help;
  std::vector<std::string> allowed;  // values of an enumeration; empty: any
  bool is_path = false;              // written as an absolute path in the effective configuration

  // Reads text into options; returns what is wrong with it, or nothing.
  std::function<std::optional<std::string>(Options& options, const std::string& text)> set;
  std::function<std::string(const Options& options)> get;  // text that set() takes back
  std::function<std::string(const Options& options)> get_json;
};

const std::vector<OptionRow>& option_table();
const OptionRow* find_option(const std::string& name);  // null: no such option

// Another name under which an option is accepted, with a notice.
struct Alias {
  std::string name, option;
  // Where the value means something else under the old name: e.g. use_cpu = true -> device = cpu. Null: taken
  // as it is.
  std::optional<std::string> (*convert)(const std::string& text) = nullptr;
};
const std::vector<Alias>& aliases();

}  // namespace sft::config
