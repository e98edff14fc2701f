#include "sft/base/json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "sft/base/error.h"
#include "sft/base/log.h"

namespace sft::base {

nlohmann::json parse_json(std::string_view text, const std::string& what, const JsonLimits& limits) {
  using nlohmann::json;
  if (static_cast<int64_t>(text.size()) > limits.bytes) {
    fail(ExitCode::kInvalidData, "{}: JSON of {} bytes, more than the {} allowed", what, text.size(), limits.bytes);
  }
  std::vector<std::set<std::string>> keys;
  int64_t values = 0;
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth >= limits.depth) fail(ExitCode::kInvalidData, "{}: JSON nested deeper than {}", what, limits.depth);
    const bool begins = event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
    if ((begins || event == json::parse_event_t::value) && ++values > limits.values) {
      fail(ExitCode::kInvalidData, "{}: JSON of more than {} values", what, limits.values);
    }
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      fail(ExitCode::kInvalidData, "{}: key '{}' twice in one JSON object", what, log::printable(parsed.get<std::string>()));
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), check);
  } catch (const json::exception& error) {
    fail(ExitCode::kInvalidData, "{}: not valid JSON ({})", what, log::printable(error.what()));
  }
}

}  // namespace sft::base
