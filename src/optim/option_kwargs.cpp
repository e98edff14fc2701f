#include "optim/option_kwargs.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "sft/base/error.h"
#include "sft/base/json.h"

namespace sft::optim {
namespace {

std::string trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(" \t") - first + 1));
}

// What stands after name=: JSON where it is JSON, else text.
nlohmann::json value_of(const std::string& text) {
  if (text == "None") return nullptr;
  nlohmann::json value = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  return value.is_discarded() ? nlohmann::json(text) : value;
}

}  // namespace

OptionKwargs::OptionKwargs(const std::string& option, const std::string& owner, const std::string& text)
    : option_(option), owner_(owner) {
  const std::string all = trimmed(text);
  if (all.empty() || all == "None") return;
  if (all.front() == '{') {
    try {
      values_ = base::parse_json(all, option_).get<std::map<std::string, nlohmann::json>>();
    } catch (const base::Error& error) {
      complain(error.what());
    }
    return;
  }
  for (std::size_t begin = 0; begin <= all.size();) {
    const std::size_t end = std::min(all.find(',', begin), all.size());
    const std::string pair = trimmed(std::string_view(all).substr(begin, end - begin));
    const std::size_t equals = pair.find('=');
    if (equals == std::string::npos || equals == 0) {
      complain(fmt::format("'{}' is not name=value (a JSON object is accepted too)", pair));
    }
    const std::string name = trimmed(std::string_view(pair).substr(0, equals));
    if (!values_.emplace(name, value_of(trimmed(std::string_view(pair).substr(equals + 1)))).second) {
      complain(fmt::format("{} is given twice", name));
    }
    begin = end + 1;
  }
}

void OptionKwargs::complain(const std::string& problem) const {
  base::fail(base::ExitCode::kConfig, "{} of {}: {}", option_, owner_, problem);
}

const nlohmann::json* OptionKwargs::find(const std::string& name) {
  known_.push_back(name);
  const auto found = values_.find(name);
  return found == values_.end() || found->second.is_null() ? nullptr : &found->second;
}

std::optional<double> OptionKwargs::number(const std::string& name) {
  const nlohmann::json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number() || !std::isfinite(value->get<double>())) {
    complain(fmt::format("{} = {} is not a number", name, value->dump()));
  }
  return value->get<double>();
}

bool OptionKwargs::boolean(const std::string& name, bool otherwise) {
  const nlohmann::json* value = find(name);
  if (value == nullptr) return otherwise;
  if (value->is_boolean()) return value->get<bool>();
  if (*value == "True" || *value == 1) return true;
  if (*value == "False" || *value == 0) return false;
  complain(fmt::format("{} = {} is neither true nor false", name, value->dump()));
}

double OptionKwargs::non_negative(const std::string& name, double otherwise) {
  const double value = number(name, otherwise);
  if (value < 0) complain(fmt::format("{} = {} is negative", name, value));
  return value;
}

std::string OptionKwargs::one_of(const std::string& name, const std::string& otherwise,
                                   const std::vector<std::string>& allowed) {
  const nlohmann::json* value = find(name);
  if (value == nullptr) return otherwise;
  if (!value->is_string() ||
      std::find(allowed.begin(), allowed.end(), value->get<std::string>()) == allowed.end()) {
    complain(fmt::format("{} = {}: allowed are {}", name, value->dump(), fmt::join(allowed, ", ")));
  }
  return value->get<std::string>();
}

void OptionKwargs::check_nothing_left() const {
  for (const auto& [name, value] : values_) {
    if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
    if (known_.empty()) complain(fmt::format("{} is given, but {} takes none", name, owner_));
    complain(fmt::format("{} is unknown; allowed are {}", name, fmt::join(known_, ", ")));
  }
}

}  // namespace sft::optim
