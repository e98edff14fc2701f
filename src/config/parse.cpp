#include "sft/config/parse.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "hf_arguments.h"
#include "ini.h"
#include "nearest.h"
#include "option_table.h"
#include "sft/base/error.h"
#include "sft/base/log.h"
#include "validate.h"
#include "value.h"
#include "words.h"

namespace sft::config {
namespace {

// For messages: one line, not too long, harmless for a terminal.
std::string shown(const std::string& text) {
  constexpr std::size_t kLimit = 80;
  return log::printable(text.size() > kLimit ? text.substr(0, kLimit) + "..." : text);
}

// Applies assignments to options and collects what there is to say about them.
class Reader {
 public:
  ParsedOptions result;
  std::vector<std::string> problems;
  std::set<std::string> failed;  // options whose value is none

  // One file must not say two things about one option, under whatever names.
  void read_file(const IniText& ini) {
    given_.clear();
    for (const Assignment& assignment : parse_ini(ini.name, ini.text, problems)) {
      if (const Assignment* earlier = given_before(assignment)) {
        report_repeated(assignment, *earlier);
      } else {
        apply(assignment);
      }
    }
  }

  // Of settings under one name the last wins: scripts add theirs behind what they are given.
  void read_settings(const std::vector<std::string>& settings) {
    given_.clear();
    for (const std::string& setting : settings) {
      const std::size_t before = problems.size();
      const Assignment assignment = parse_setting(setting, problems);
      if (problems.size() != before) continue;
      const Assignment* earlier = given_before(assignment);
      if (earlier && earlier->key != assignment.key) {
        report_repeated(assignment, *earlier);
      } else {
        apply(assignment);
      }
    }
  }

  void add_notices() {
    if (!renamed_.empty()) result.notices.push_back(fmt::format("taken as: {}", fmt::join(renamed_, ", ")));
    if (!without_effect_.empty()) {
      result.notices.push_back(
          fmt::format("without effect in sft-dist: {}", fmt::join(without_effect_, ", ")));
    }
  }

 private:
  void apply(const Assignment& assignment) {
    if (const OptionRow* row = find_option(assignment.key)) {
      set(*row, assignment, assignment.value);
    } else if (const Alias* alias = find_alias(assignment.key)) {
      apply_alias(*alias, assignment);
    } else if (const HfArgument* argument = find_hf_argument(assignment.key)) {
      apply_hf_argument(*argument, assignment);
    } else if (const auto positive = negated(assignment)) {
      apply(*positive);
    } else {
      problems.push_back(fmt::format("{}: there is no option {}{}", assignment.where, shown(assignment.key),
                                     suggestion(assignment.key)));
    }
  }

  void set(const OptionRow& row, const Assignment& assignment, const RawValue& value) {
    if (const auto problem = set_value(row, value, result.options)) {
      report(assignment, *problem);
      failed.insert(row.name);
    } else {
      failed.erase(row.name);
    }
  }

  void apply_alias(const Alias& alias, const Assignment& assignment) {
    const Alias::Converted converted =
        alias.convert ? alias.convert(assignment.value.text) : Alias::Converted{.value = assignment.value.text};
    const OptionRow& row = *find_option(alias.option);
    if (!converted.problem.empty()) return report(assignment, converted.problem);
    if (!converted.value && !is_withdrawn(row, alias, converted.withdrawn)) return without_effect(alias.name);
    const std::string value = converted.value.value_or(plain_value(row, {}));
    const std::string as = alias.convert ? fmt::format("{} = {}", alias.option, value) : alias.option;
    renamed_.push_back(fmt::format("{} -> {}", alias.name, as));
    set(row, assignment, {value, assignment.value.was_quoted});
  }

  // `use_cpu = false` takes back an earlier `use_cpu = true`, but says nothing about `device = cuda`, nor against
  // what stands beside it under another name.
  bool is_withdrawn(const OptionRow& row, const Alias& alias, const std::string& value) const {
    const auto given = given_.find(row.name);
    if (given != given_.end() && given->second.key != alias.name) return false;
    return !value.empty() && plain_value(row, result.options) == value;
  }

  // no_<flag>, as transformers' command line has it for flags that are true by default.
  static std::optional<Assignment> negated(const Assignment& assignment) {
    const auto value = parse_bool(assignment.value.text);
    if (!assignment.key.starts_with("no_") || !value) return std::nullopt;
    Assignment positive{assignment.key.substr(3), {*value ? "false" : "true", false}, assignment.where};
    const OptionRow* row = find_option(positive.key);
    const bool is_flag = row ? type_name(*row).starts_with("bool") : find_hf_argument(positive.key) != nullptr;
    return is_flag ? std::optional(positive) : std::nullopt;
  }

  void apply_hf_argument(const HfArgument& argument, const Assignment& assignment) {
    const std::string& value = assignment.value.text;
    if (is_taken_with_advice(argument, value)) {
      result.notices.push_back(fmt::format("{} = {}: {}", argument.name, shown(value), argument.advice));
    } else if (!is_harmless(argument, value)) {
      report(assignment, argument.advice);
    } else if (argument.any_value_is_harmless && !argument.advice.empty()) {
      result.notices.push_back(fmt::format("{}: {}", argument.name, argument.advice));
    } else {
      without_effect(argument.name);
    }
  }

  void without_effect(const std::string& name) {
    if (std::find(without_effect_.begin(), without_effect_.end(), name) == without_effect_.end()) {
      without_effect_.push_back(name);
    }
  }

  void report(const Assignment& assignment, const std::string& problem) {
    problems.push_back(fmt::format("{}: {} = {}: {}", assignment.where, assignment.key,
                                   shown(assignment.value.text), problem));
  }

  // What the present file, or the command line, has already said about that option; null: nothing.
  const Assignment* given_before(const Assignment& assignment) {
    const Alias* alias = find_alias(assignment.key);
    const bool sets_option = alias && (!alias->convert || alias->convert(assignment.value.text).value);
    const bool is_name = find_option(assignment.key) || alias || find_hf_argument(assignment.key);
    const auto positive = is_name ? std::nullopt : negated(assignment);
    const std::string name = sets_option ? alias->option : positive ? positive->key : assignment.key;
    const auto [first, is_first] = given_.emplace(name, assignment);
    return is_first ? nullptr : &first->second;
  }

  void report_repeated(const Assignment& assignment, const Assignment& earlier) {
    const std::string as = earlier.key == assignment.key ? "" : " as " + shown(earlier.key);
    const std::string at = earlier.where == assignment.where ? "" : " at " + earlier.where;
    problems.push_back(
        fmt::format("{}: {} was already given{}{}", assignment.where, shown(assignment.key), at, as));
  }

  static std::string suggestion(const std::string& key) {
    std::vector<std::string> names, ignored;
    for (const OptionRow& row : option_table()) names.push_back(row.name);
    for (const Alias& alias : aliases()) names.push_back(alias.name);
    for (const HfArgument& argument : hf_arguments())
      (argument.any_value_is_harmless ? ignored : names).push_back(argument.name);
    const std::string nearest = meant_name(lower(key), names, ignored);
    return nearest.empty() ? "; sft-dist --help lists them" : fmt::format("; did you mean {}?", nearest);
  }

  std::map<std::string, Assignment> given_;  // in the present file, or on the command line
  std::vector<std::string> renamed_, without_effect_;
};

bool involves(const Contradiction& finding, const std::set<std::string>& names) {
  return std::any_of(finding.options.begin(), finding.options.end(),
                     [&](const std::string& option) { return names.contains(option); });
}

}  // namespace

ParsedOptions parse_options(const std::vector<IniText>& ini_texts, const std::vector<std::string>& settings) {
  Reader reader;
  for (const IniText& ini : ini_texts) reader.read_file(ini);
  reader.read_settings(settings);
  // What follows only from a value that was refused is not worth a second message.
  for (const Contradiction& finding : contradictions(reader.result.options)) {
    if (!involves(finding, reader.failed)) reader.problems.push_back(finding.text);
  }
  throw_problems(reader.problems);
  reader.add_notices();
  for (const std::string& doubt : doubts(reader.result.options)) reader.result.notices.push_back(doubt);
  return std::move(reader.result);
}

Options parse_settings_leniently(const std::vector<std::string>& settings) {
  Reader reader;
  reader.read_settings(settings);
  return reader.result.options;
}

int64_t parse_integer(const std::string& text, const std::string& what) {
  const auto value = parse_number<int64_t>(trim(text));
  if (!value) base::fail(base::ExitCode::kConfig, "{} = {}: must be a whole number", what, shown(text));
  return *value;
}

std::string metric_for_best_model(const BestOptions& options) {
  if (!options.metric_for_best_model.empty()) return options.metric_for_best_model;
  return options.load_best_model_at_end ? "loss" : "";
}

int64_t resolve_steps(double value, int64_t max_steps) {
  return static_cast<int64_t>(value < 1 ? std::ceil(static_cast<double>(max_steps) * value) : value);
}

}  // namespace sft::config
