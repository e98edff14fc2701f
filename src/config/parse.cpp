#include "sft/config/parse.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "hf_names.h"
#include "ini.h"
#include "nearest.h"
#include "option_table.h"
#include "sft/base/error.h"
#include "sft/base/log.h"
#include "validate.h"
#include "value.h"

namespace sft::config {
namespace {

// Applies assignments to options and collects what there is to say about them.
class Reader {
 public:
  ParsedOptions result;
  std::vector<std::string> problems;
  std::vector<std::string> without_effect;

  void apply(const Assignment& assignment) {
    if (const OptionRow* row = find_option(assignment.key)) {
      set(*row, assignment, assignment.value);
    } else if (const Alias* alias = find_alias(assignment.key)) {
      apply_alias(*alias, assignment);
    } else if (const HfArgument* argument = find_hf_argument(assignment.key)) {
      if (const auto problem = hf_argument_problem(*argument, assignment.value)) {
        problems.push_back(fmt::format("{}: {} = {}: {}", assignment.where, assignment.key,
                                       log::printable(assignment.value), *problem));
      } else {
        without_effect.push_back(assignment.key);
      }
    } else {
      unknown(assignment);
    }
  }

 private:
  static const Alias* find_alias(const std::string& name) {
    for (const Alias& alias : aliases()) {
      if (alias.name == name) return &alias;
    }
    return nullptr;
  }

  void apply_alias(const Alias& alias, const Assignment& assignment) {
    const std::optional<std::string> value =
        alias.convert ? alias.convert(assignment.value) : assignment.value;
    if (!value) {
      problems.push_back(fmt::format("{}: {} = {}: must be true or false", assignment.where, assignment.key,
                                     log::printable(assignment.value)));
      return;
    }
    result.notices.push_back(fmt::format("{} is another name of {}", alias.name, alias.option));
    set(*find_option(alias.option), assignment, *value);
  }

  void set(const OptionRow& row, const Assignment& assignment, const std::string& value) {
    if (const auto problem = row.set(result.options, value)) {
      problems.push_back(
          fmt::format("{}: {} = {}: {}", assignment.where, assignment.key, log::printable(value), *problem));
    }
  }

  void unknown(const Assignment& assignment) {
    std::vector<std::string> names;
    for (const OptionRow& row : option_table()) names.push_back(row.name);
    for (const Alias& alias : aliases()) names.push_back(alias.name);
    const std::string nearest = nearest_name(assignment.key, names);
    problems.push_back(fmt::format(
        "{}: there is no option {}{}", assignment.where, log::printable(assignment.key),
        nearest.empty() ? "; sft-dist --help lists them" : fmt::format("; did you mean {}?", nearest)));
  }
};

}  // namespace

ParsedOptions parse_options(const std::vector<IniText>& ini_texts, const std::vector<std::string>& settings) {
  Reader reader;
  for (const IniText& ini : ini_texts) {
    for (const Assignment& assignment : parse_ini(ini.name, ini.text, reader.problems))
      reader.apply(assignment);
  }
  for (const std::string& setting : settings) reader.apply(parse_setting(setting));

  if (reader.problems.empty()) reader.problems = contradictions(reader.result.options);
  if (!reader.problems.empty())
    throw base::Error(base::ExitCode::kConfig, fmt::format("{}", fmt::join(reader.problems, "\n")));
  if (!reader.without_effect.empty()) {
    reader.result.notices.push_back(
        fmt::format("these have no effect in sft-dist: {}", fmt::join(reader.without_effect, ", ")));
  }
  return std::move(reader.result);
}

int64_t parse_integer(const std::string& text, const std::string& what) {
  int64_t value = 0;
  if (const auto problem = parse_value(text, value))
    base::fail(base::ExitCode::kConfig, "{} = {}: {}", what, log::printable(text), *problem);
  return value;
}

int64_t resolve_steps(double value, int64_t max_steps) {
  return value < 1 ? static_cast<int64_t>(std::ceil(static_cast<double>(max_steps) * value))
                   : static_cast<int64_t>(value);
}

}  // namespace sft::config
