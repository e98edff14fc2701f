#include "model/config_reader.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "sft/base/error.h"

namespace sft::model {

using base::ExitCode;

ConfigReader::ConfigReader(const nlohmann::json& object, std::string file_name, std::string path)
    : object_(object), file_name_(std::move(file_name)), path_(std::move(path)) {
  if (!object_.is_object()) {
    base::fail(ExitCode::kInvalidData, "{}: {} must be a JSON object", file_name_,
               path_.empty() ? "the file" : path_);
  }
}

bool ConfigReader::contains(const char* key) const {
  return object_.contains(key);
}

bool ConfigReader::has(const char* key) const {
  return object_.contains(key) && !object_.at(key).is_null();
}

const nlohmann::json& ConfigReader::at(const char* key) const {
  return object_.at(key);
}

void ConfigReader::unsupported(const char* key, std::string_view supported) const {
  const std::string value = object_.contains(key) ? at(key).dump().substr(0, 80) : "missing";
  base::fail(ExitCode::kInvalidData, "{}: {}{} = {} is not supported; supported: {}", file_name_, path_, key,
             value, supported);
}

int64_t ConfigReader::positive(const char* key, int64_t fallback) const {
  const int64_t value = integer(key).value_or(fallback);
  constexpr int64_t kLargest = int64_t{1} << 31;  // keeps products of two sizes within an int64
  if (value <= 0 || value >= kLargest) unsupported(key, "whole numbers from 1 to 2^31 - 1");
  return value;
}

std::optional<int64_t> ConfigReader::integer(const char* key) const {
  if (!has(key)) return std::nullopt;
  const nlohmann::json& value = at(key);
  const bool too_large = value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX};
  if (!value.is_number_integer() || too_large) unsupported(key, "a whole number");
  return value.get<int64_t>();
}

double ConfigReader::number(const char* key, double fallback) const {
  if (!has(key)) return fallback;
  if (!at(key).is_number()) unsupported(key, "a number");
  return at(key).get<double>();
}

double ConfigReader::positive_number(const char* key, double fallback) const {
  const double value = number(key, fallback);
  if (!(value > 0.0)) unsupported(key, "a number above 0");
  return value;
}

double ConfigReader::probability(const char* key, double fallback) const {
  const double value = number(key, fallback);
  if (!(value >= 0.0 && value < 1.0)) unsupported(key, "a probability, at least 0 and below 1");
  return value;
}

bool ConfigReader::flag(const char* key, bool fallback) const {
  if (!has(key)) return fallback;
  if (!at(key).is_boolean()) unsupported(key, "true or false");
  return at(key).get<bool>();
}

std::string ConfigReader::text(const char* key, const std::string& fallback) const {
  if (!has(key)) return fallback;
  if (!at(key).is_string()) unsupported(key, "a string");
  return at(key).get<std::string>();
}

ConfigReader ConfigReader::object(const char* key) const {
  if (!has(key) || !at(key).is_object()) unsupported(key, "a JSON object");
  return ConfigReader(at(key), file_name_, path_ + key + ".");
}

std::optional<std::vector<std::string>> ConfigReader::texts(const char* key) const {
  if (!has(key)) return std::nullopt;
  std::vector<std::string> result;
  if (!at(key).is_array()) unsupported(key, "a list of strings");
  for (const nlohmann::json& entry : at(key)) {
    if (!entry.is_string()) unsupported(key, "a list of strings");
    result.push_back(entry.get<std::string>());
  }
  return result;
}

std::vector<double> ConfigReader::numbers(const char* key) const {
  std::vector<double> result;
  if (!has(key)) return result;
  if (!at(key).is_array()) unsupported(key, "a list of numbers");
  for (const nlohmann::json& entry : at(key)) {
    if (!entry.is_number()) unsupported(key, "a list of numbers");
    result.push_back(entry.get<double>());
  }
  return result;
}

void ConfigReader::require_flag(const char* key, bool supported) const {
  if (flag(key, supported) != supported) unsupported(key, supported ? "true" : "false");
}

}  // namespace sft::model
