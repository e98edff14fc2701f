#include "value.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>
#include <type_traits>

#include "ini.h"
#include "paths.h"
#include "words.h"

namespace sft::config {
namespace {

using Problem = std::optional<std::string>;

template <typename T>
struct Optional : std::false_type {
  using Value = T;
};
template <typename T>
struct Optional<std::optional<T>> : std::true_type {
  using Value = T;
};

// Calls visit(field) with the row's field, whose type differs from row to row.
template <typename Visit>
auto with_field(const OptionRow& row, Options& options, Visit&& visit) {
  return std::visit([&](auto* field) { return visit(*field); }, row.slot(options));
}

// Text that may be empty is empty by default.
bool may_be_none(const OptionRow& row) {
  Options defaults;
  return with_field(row, defaults, []<typename T>(T& field) {
    if constexpr (std::is_same_v<T, std::string>) return field.empty();
    return Optional<T>::value;
  });
}

template <typename T>
const char* kind_of() {
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_same_v<T, int64_t>) return "a whole number";
  if constexpr (std::is_same_v<T, double>) return "a number";
  return "";
}

Problem must_be(const OptionRow& row, const std::string& what) {
  return fmt::format("must be {}{}", what,
                     may_be_none(row) && row.rule.path != PathKind::kResume ? ", or None" : "");
}

Problem check_number(const OptionRow& row, const char* kind, double value) {
  if (!row.rule.number_is_allowed || row.rule.number_is_allowed(value)) return std::nullopt;
  // "a whole number, 1 or more"; rules of steps say it themselves.
  const bool says_kind = row.rule.allowed.rfind("a ", 0) == 0;
  return must_be(row, says_kind ? row.rule.allowed : fmt::format("{}, {}", kind, row.rule.allowed));
}

bool is_choice(const Rule& rule, const std::string& word) {
  return std::find(rule.choices.begin(), rule.choices.end(), word) != rule.choices.end();
}

// What to_ini and to_json can write.
bool is_printable_utf8(const std::string& text) {
  try {
    nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    return false;
  }
  return std::none_of(text.begin(), text.end(),
                      [](unsigned char c) { return (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f; });
}

Problem check_text(const OptionRow& row, const std::string& text) {
  const Rule& rule = row.rule;
  if (text.empty()) return may_be_none(row) ? std::nullopt : Problem("must not be empty");
  if (!is_printable_utf8(text)) return "must be UTF-8 text without control characters";
  if (rule.text_is_allowed && !rule.text_is_allowed(text)) return must_be(row, rule.allowed);
  if (rule.choices.empty()) return std::nullopt;
  if (!rule.is_list) return is_choice(rule, text) ? std::nullopt : must_be(row, rule.allowed);
  std::istringstream words(text);
  for (std::string word; std::getline(words, word, ',');) {
    if (!is_choice(rule, word)) return must_be(row, rule.allowed);
  }
  return std::nullopt;
}

// ["a", "b"], as JSON and Python write lists -> a,b
std::string without_brackets(const std::string& text) {
  if (!text.starts_with('[') || !text.ends_with(']')) return text;
  std::string result;
  std::istringstream words(text.substr(1, text.size() - 2));
  for (std::string word; std::getline(words, word, ',');) {
    word = trim(word);
    const bool quoted = word.size() > 1 && word.front() == word.back() && (word.front() == '"' || word.front() == '\'');
    result += (result.empty() ? "" : ",") + (quoted ? word.substr(1, word.size() - 2) : word);
  }
  return result;
}

// Text in the one spelling that the program compares with.
std::string canonical_text(const Rule& rule, const std::string& text) {
  if (rule.path == PathKind::kResume) {
    const auto flag = parse_bool(text);
    return flag ? (*flag ? "true" : "") : expand_home(text);
  }
  if (rule.path != PathKind::kNone) return expand_home(text);
  const std::string words = rule.is_list ? without_brackets(text) : text;
  if (rule.choices.empty()) return words;
  std::string word = lower(words);
  word.erase(std::remove(word.begin(), word.end(), ' '), word.end());
  for (const auto& [other, choice] : rule.synonyms) {
    if (word == other) return choice;
  }
  return word.empty() && is_choice(rule, "none") ? "none" : word;
}

template <typename T>
std::optional<T> parse_as(const std::string& text) {
  if constexpr (std::is_same_v<T, bool>) {
    return parse_bool(text);
  } else if constexpr (std::is_same_v<T, int64_t>) {
    return parse_integer_value(text);
  } else {
    return parse_number<T>(text);
  }
}

template <typename T>
Problem set_field(const OptionRow& row, const RawValue& raw, T& field) {
  using Value = typename Optional<T>::Value;
  if (!raw.was_quoted && is_none(raw.text) && !is_choice(row.rule, "none")) {
    if (!may_be_none(row))
      return fmt::format("None is not allowed: leave the option out for its default, {}", plain_value(row, {}));
    field = T{};
    return std::nullopt;
  }
  if constexpr (std::is_same_v<Value, std::string>) {
    const std::string text = canonical_text(row.rule, raw.text);
    if (auto problem = check_text(row, text)) return problem;
    field = text;
  } else {
    const auto value = parse_as<Value>(raw.text);
    if (!value) return must_be(row, kind_of<Value>());
    if constexpr (!std::is_same_v<Value, bool>) {
      if (auto problem = check_number(row, kind_of<Value>(), static_cast<double>(*value))) return problem;
    }
    field = *value;
  }
  return std::nullopt;
}

template <typename T>
nlohmann::json as_json(const T& field) {
  if constexpr (Optional<T>::value) {
    return field ? nlohmann::json(*field) : nlohmann::json();
  } else if constexpr (std::is_same_v<T, std::string>) {
    return field.empty() ? nlohmann::json() : nlohmann::json(field);
  } else {
    return field;
  }
}

template <typename T>
std::string as_text(const OptionRow& row, const T& field) {
  if constexpr (Optional<T>::value) {
    return field ? fmt::format("{}", *field) : "None";
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (field.empty()) return "None";
    return row.rule.choices.empty() ? quoted_where_needed(field) : field;
  } else {
    return fmt::format("{}", field);
  }
}

// Options with this row's path made absolute.
Options with_absolute_path(const OptionRow& row, Options options) {
  if (row.rule.path == PathKind::kNone) return options;
  std::string& path = *std::get<std::string*>(row.slot(options));
  path = absolute_path(row.rule.path, path);
  return options;
}

}  // namespace

std::optional<std::string> set_value(const OptionRow& row, const RawValue& value, Options& options) {
  return with_field(row, options, [&](auto& field) { return set_field(row, value, field); });
}

std::optional<std::string> check_value(const OptionRow& row, const Options& options) {
  Options copy = options;
  return with_field(row, copy, [&]<typename T>(T& field) -> Problem {
    if constexpr (std::is_same_v<T, std::string>) return check_text(row, field);
    using Value = typename Optional<T>::Value;
    if constexpr (std::is_arithmetic_v<Value> && !std::is_same_v<Value, bool>) {
      const std::optional<Value> value = field;
      if (value) return check_number(row, kind_of<Value>(), static_cast<double>(*value));
    }
    return std::nullopt;
  });
}

std::string plain_value(const OptionRow& row, const Options& options) {
  Options copy = options;
  return with_field(row, copy, [&](auto& field) { return as_text(row, field); });
}

std::string ini_value(const OptionRow& row, const Options& options) {
  return plain_value(row, with_absolute_path(row, options));
}

std::string json_value(const OptionRow& row, const Options& options) {
  Options copy = with_absolute_path(row, options);
  return with_field(row, copy, [](auto& field) { return as_json(field).dump(); });
}

std::string type_name(const OptionRow& row) {
  Options defaults;
  const std::string name = with_field(row, defaults, []<typename T>(T&) -> std::string {
    using Value = typename Optional<T>::Value;
    if constexpr (std::is_same_v<Value, bool>) return "bool";
    if constexpr (std::is_same_v<Value, int64_t>) return "int";
    if constexpr (std::is_same_v<Value, double>) return "float";
    return "str";
  });
  return may_be_none(row) ? name + " or None" : name;
}

}  // namespace sft::config
