// Option values as text, in both directions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace sft::config {

// Reads text into value. Returns what is wrong ("must be a whole number"), or nothing when it is fine.
// "None" (any case) unsets an optional and empties a string; other types refuse it.
std::optional<std::string> parse_value(const std::string& text, bool& value);
std::optional<std::string> parse_value(const std::string& text, int64_t& value);
std::optional<std::string> parse_value(const std::string& text, double& value);
std::optional<std::string> parse_value(const std::string& text, std::string& value);
template <typename T>
std::optional<std::string> parse_value(const std::string& text, std::optional<T>& value);

bool is_none(const std::string& text);

// parse_value gives the same value back. Doubles in shortest form.
std::string format_value(bool value);
std::string format_value(int64_t value);
std::string format_value(double value);
std::string format_value(const std::string& value);
template <typename T>
std::string format_value(const std::optional<T>& value) {
  return value ? format_value(*value) : "None";
}

// In quotes where the ini syntax would take part of it for a comment, quotes or blanks around the value. Not
// empty.
std::string quoted_for_ini(const std::string& value);

// For help and documentation.
std::string type_name(const bool*);
std::string type_name(const int64_t*);
std::string type_name(const double*);
std::string type_name(const std::string*);
template <typename T>
std::string type_name(const std::optional<T>*) {
  return type_name(static_cast<const T*>(nullptr)) + " or None";
}

template <typename T>
std::optional<std::string> parse_value(const std::string& text, std::optional<T>& value) {
  if (is_none(text)) {
    value.reset();
    return std::nullopt;
  }
  T parsed{};
  if (auto problem = parse_value(text, parsed)) return *problem + " or None";
  value = parsed;
  return std::nullopt;
}

}  // namespace sft::config
