// JSON within limits: what is accepted is the same after being written and read again.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "fuzz.h"
#include "sft/base/json.h"

namespace {

constexpr sft::base::JsonLimits kLimits{.bytes = 1 << 16, .depth = 16, .values = 1 << 10};

int depth_of(const nlohmann::json& value) {
  int deepest = 0;
  if (value.is_structured()) {
    for (const nlohmann::json& item : value) deepest = std::max(deepest, depth_of(item));
  }
  return deepest + 1;
}

}  // namespace

void sft::fuzz::one_input(std::string_view input) {
  nlohmann::json value;
  if (!sft::fuzz::accepted([&] { value = sft::base::parse_json(input, "input", kLimits); })) return;
  sft::fuzz::require(depth_of(value) <= kLimits.depth + 1, "the limit of depth");
  const std::string text = value.dump();
  sft::fuzz::require(sft::base::parse_json(text, "written", {}) == value, "writing and reading again");
}
