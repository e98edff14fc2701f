// Integer arithmetic that fails instead of wrapping.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <type_traits>

namespace sft::base {

// value as To; throws std::overflow_error when it does not fit.
template <typename To, typename From>
To narrow(From value) {
  static_assert(std::is_integral_v<To> && std::is_integral_v<From>);
  const To result = static_cast<To>(value);
  if (static_cast<From>(result) != value || ((result < To{}) != (value < From{}))) {
    throw std::overflow_error("integer out of range");
  }
  return result;
}

// The product or sum, or nothing when it does not fit an int64.
inline std::optional<int64_t> checked_mul(int64_t a, int64_t b) {
  int64_t result = 0;
  if (__builtin_mul_overflow(a, b, &result)) return std::nullopt;
  return result;
}
inline std::optional<int64_t> checked_add(int64_t a, int64_t b) {
  int64_t result = 0;
  if (__builtin_add_overflow(a, b, &result)) return std::nullopt;
  return result;
}

// a / b rounded up, for a >= 0 and b > 0.
inline constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
// a rounded up to a multiple of b.
inline constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace sft::base
