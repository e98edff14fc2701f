// Small text helpers of this room.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>

namespace sft::config {

inline std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return text;
}

inline std::string trim(const std::string& text) {
  const auto first = text.find_first_not_of(" \t\r"), last = text.find_last_not_of(" \t\r");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

// The whole text as a finite number, whatever the locale.
template <typename T>
std::optional<T> parse_number(const std::string& text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if constexpr (std::is_floating_point_v<T>) {
    if (!std::isfinite(value)) return std::nullopt;
  }
  return value;
}

// Also 1e3 and 500.0.
inline std::optional<int64_t> parse_integer_value(const std::string& text) {
  if (const auto integer = parse_number<int64_t>(text)) return integer;
  const auto number = parse_number<double>(text);
  constexpr double kLargest = 1e15;  // every whole number up to it is a double
  if (!number || std::trunc(*number) != *number || std::abs(*number) > kLargest) return std::nullopt;
  return static_cast<int64_t>(*number);
}

// true/false, 1/0, yes/no, on/off, in any case.
inline std::optional<bool> parse_bool(const std::string& text) {
  const std::string word = lower(text);
  if (word == "true" || word == "1" || word == "yes" || word == "on") return true;
  if (word == "false" || word == "0" || word == "no" || word == "off") return false;
  return std::nullopt;
}

// None as Python writes it, or null as YAML and JSON do.
inline bool is_none(const std::string& text) {
  const std::string word = lower(text);
  return word == "none" || word == "null";
}

}  // namespace sft::config
