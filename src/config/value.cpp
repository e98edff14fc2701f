#include "value.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace sft::config {
namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

// The whole text as a number; from_chars takes no leading plus, no blanks and no locale.
template <typename T>
bool read_number(const std::string& text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

bool is_none(const std::string& text) {
  return lower(text) == "none";
}

std::optional<std::string> parse_value(const std::string& text, bool& value) {
  const std::string word = lower(text);
  if (word == "true" || word == "1" || word == "yes") {
    value = true;
  } else if (word == "false" || word == "0" || word == "no") {
    value = false;
  } else {
    return "must be true or false";
  }
  return std::nullopt;
}

std::optional<std::string> parse_value(const std::string& text, int64_t& value) {
  int64_t parsed = 0;
  double number = 0;
  if (read_number(text, parsed)) {
    value = parsed;
  } else if (read_number(text, number) && std::trunc(number) == number &&
             std::abs(number) < 1e15) {  // 1e3, 500.0
    value = static_cast<int64_t>(number);
  } else {
    return "must be a whole number";
  }
  return std::nullopt;
}

std::optional<std::string> parse_value(const std::string& text, double& value) {
  double parsed = 0;
  if (!read_number(text, parsed) || !std::isfinite(parsed)) return "must be a number";
  value = parsed;
  return std::nullopt;
}

std::optional<std::string> parse_value(const std::string& text, std::string& value) {
  value = is_none(text) ? "" : text;
  return std::nullopt;
}

std::string format_value(bool value) {
  return value ? "true" : "false";
}
std::string format_value(int64_t value) {
  return std::to_string(value);
}
std::string format_value(double value) {
  return fmt::format("{}", value);
}
std::string format_value(const std::string& value) {
  return value.empty() ? "None" : value;
}

std::string quoted_for_ini(const std::string& value) {
  const bool quote = value.find('#') != std::string::npos || value.front() == ' ' || value.back() == ' ' ||
                     value.front() == '"' || value.front() == '\'';
  if (!quote) return value;
  return value.find('"') == std::string::npos ? '"' + value + '"' : '\'' + value + '\'';
}

std::string type_name(const bool*) {
  return "bool";
}
std::string type_name(const int64_t*) {
  return "int";
}
std::string type_name(const double*) {
  return "float";
}
std::string type_name(const std::string*) {
  return "str";
}

}  // namespace sft::config
