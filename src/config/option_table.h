// THE table of options: one row per option. Parser, --help, docs/options.md, dumps and checks are loops over
// it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "sft/config/options.h"

namespace sft::config {

// The field of an Options that a row is bound to; its type is the option's type.
using Slot = std::variant<bool*, int64_t*, double*, std::string*, std::optional<bool>*,
                          std::optional<int64_t>*, std::optional<double>*>;

// How to_ini and to_json make a value independent of the working directory.
enum class PathKind {
  kNone,
  kPath,          // always a path
  kFolderOrName,  // a path when such a folder exists or it is written as one (./x, /x), else a repository id
  kFunction,      // file.py:function
  kNamed,         // path, or name=path, name=path
  kMixture,       // path, or path:fraction, path:fraction
  kResume,        // a path, or the word true
};

// Which values of its type an option takes.
struct Rule {
  std::string allowed;  // in words, for messages and documentation; empty: every value of the type
  std::vector<std::string> choices;  // of a string; empty: free text
  bool is_list = false;              // words separated by commas
  std::function<bool(double)> number_is_allowed;
  std::function<bool(const std::string&)> text_is_allowed;
  std::vector<std::pair<std::string, std::string>> synonyms;  // other words for a choice
  PathKind path = PathKind::kNone;
};

struct OptionRow {
  std::string group;  // heading in help and documentation
  std::string name;   // the field's name; as in Hugging Face where the option exists there
  Slot (*slot)(Options&);
  std::string help;
  Rule rule;
};

const std::vector<OptionRow>& option_table();
const OptionRow* find_option(const std::string& name);  // null: no such option

// Another name of an option, taken with a notice.
struct Alias {
  struct Converted {
    std::optional<std::string> value = {};  // nullopt: the option keeps what it has,
    std::string withdrawn = {};             // or goes back to its default if an earlier file gave it this value
    std::string problem = {};               // what is wrong; empty: nothing
  };
  std::string name, option;
  std::string note = {};  // for the documentation, where it is more than another name
  // Where a value means something else under the other name. Null: taken as it is.
  Converted (*convert)(const std::string& text) = nullptr;
};
const std::vector<Alias>& aliases();
const Alias* find_alias(const std::string& name);

}  // namespace sft::config
