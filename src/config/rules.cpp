#include "rules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>

#include "path_list_rules.h"
#include "sft/base/error.h"
#include "sft/base/json.h"
#include "words.h"

namespace sft::config {
namespace {

Rule number_rule(std::string allowed, std::function<bool(double)> is_allowed) {
  Rule rule;
  rule.allowed = std::move(allowed);
  rule.number_is_allowed = std::move(is_allowed);
  return rule;
}

Rule text_rule(std::string allowed, bool (*is_allowed)(const std::string&)) {
  Rule rule;
  rule.allowed = std::move(allowed);
  rule.text_is_allowed = is_allowed;
  return rule;
}

Rule path_rule(PathKind kind) {
  Rule rule;
  rule.path = kind;
  return rule;
}

bool is_json_object(const std::string& text) {
  try {
    return base::parse_json(text, "lr_scheduler_kwargs").is_object();
  } catch (const base::Error&) {
    return false;
  }
}

bool are_key_values(const std::string& text) {
  if (text.front() == '{') return is_json_object(text);
  std::istringstream pairs(text);
  for (std::string pair; std::getline(pairs, pair, ',');) {
    const auto equals = pair.find('=');
    if (equals == std::string::npos || trim(pair.substr(0, equals)).empty() ||
        trim(pair.substr(equals + 1)).empty())
      return false;
  }
  return text.back() != ',';
}

// A positive number of bytes with an optional decimal (KB) or binary (KiB) unit.
bool is_size(const std::string& text) {
  const auto unit_begin = text.find_first_not_of("0123456789.");
  const auto number = parse_number<double>(text.substr(0, unit_begin));
  const std::string unit = unit_begin == std::string::npos ? "" : lower(trim(text.substr(unit_begin)));
  constexpr std::string_view kUnits[] = {"kb", "mb", "gb", "tb", "kib", "mib", "gib", "tib"};
  return number && *number > 0 && std::find(std::begin(kUnits), std::end(kUnits), unit) != std::end(kUnits);
}

}  // namespace

Rule at_least(int64_t minimum) {
  return number_rule(fmt::format("{} or more", minimum),
                     [minimum](double value) { return value >= static_cast<double>(minimum); });
}

Rule between(int64_t minimum, int64_t maximum) {
  return number_rule(fmt::format("from {} to {}", minimum, maximum), [=](double value) {
    return value >= static_cast<double>(minimum) && value <= static_cast<double>(maximum);
  });
}

Rule above(int64_t bound) {
  return number_rule(fmt::format("above {}", bound),
                     [bound](double value) { return value > static_cast<double>(bound); });
}

Rule in_half_open_unit() {
  return number_rule("in [0, 1)", [](double value) { return value >= 0 && value < 1; });
}

Rule steps() {
  return number_rule("a whole number of steps, or a fraction of all steps below 1", [](double value) {
    return value >= 0 && (value < 1 || std::trunc(value) == value) && value < 1e15;
  });
}

Rule split_size() {
  return number_rule("a whole number of rows, or a share of all rows below 1", [](double value) {
    return value > 0 && (value < 1 || std::trunc(value) == value) && value < 1e15;
  });
}

Rule seed() {
  return number_rule("from 0 to 4294967295",
                     [](double value) { return value >= 0 && value <= 4294967295.0; });
}

Rule one_of(std::vector<std::string> choices, std::vector<std::pair<std::string, std::string>> synonyms) {
  Rule rule;
  rule.allowed = fmt::format("one of {}", fmt::join(choices, ", "));
  rule.choices = std::move(choices);
  rule.synonyms = std::move(synonyms);
  return rule;
}

Rule list_of(std::vector<std::string> choices) {
  Rule rule = one_of(std::move(choices));
  rule.is_list = true;
  return rule;
}

Rule names() {
  Rule rule = text_rule("names separated by commas", [](const std::string& text) {
    std::istringstream words(text);
    for (std::string word; std::getline(words, word, ',');) {
      const std::string name = trim(word);
      const bool plain = std::ranges::all_of(
          name, [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == '.' || c == '-'; });
      if (name.empty() || !plain) return false;
    }
    return text.back() != ',';
  });
  rule.is_list = true;
  return rule;
}
Rule key_values() {
  return text_rule("a JSON object or key=value,key=value", are_key_values);
}
Rule size() {
  return text_rule("a size such as 5GB (KB, MB, GB, TB, KiB, MiB, GiB, TiB)", is_size);
}
Rule path() {
  return path_rule(PathKind::kPath);
}
Rule named_paths_rule() {
  Rule rule = text_rule("a path, or name=path, name=path, ...", are_named_paths);
  rule.path = PathKind::kNamed;
  return rule;
}

Rule mixture_rule() {
  Rule rule = text_rule("a path, or path:fraction, path:fraction, ...", is_mixture);
  rule.path = PathKind::kMixture;
  return rule;
}

Rule folder_or_name() {
  return path_rule(PathKind::kFolderOrName);
}

Rule python_function() {
  Rule rule = text_rule("file.py:function", [](const std::string& text) {
    const auto colon = text.rfind(':');
    return colon != std::string::npos && colon > 0 && colon + 1 < text.size();
  });
  rule.path = PathKind::kFunction;
  return rule;
}

Rule resume() {
  Rule rule = path_rule(PathKind::kResume);
  rule.allowed = "true, false or a folder";
  return rule;
}

}  // namespace sft::config
