// JSON from files that are not trusted: nlohmann::json behind limits.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace sft::base {

struct JsonLimits {
  int64_t bytes = 64 << 20;
  int depth = 32;
  int64_t values = 4'000'000;  // objects, lists, numbers, strings, ...: each takes far more memory than text
};

inline constexpr JsonLimits kConfigLimits{.bytes = 1 << 20};  // config.json, adapter_config.json

// Refuses (Error kInvalidData naming `what`): more than the limits, duplicate keys, trailing bytes, bad UTF-8.
nlohmann::json parse_json(std::string_view text, const std::string& what, const JsonLimits& limits = {});

}  // namespace sft::base
