// Typed access to the keys of a config.json; every complaint names the file and the key.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sft::model {

class ConfigReader {
 public:
  // `path` is put before key names in messages: "" or "rope_parameters.".
  ConfigReader(const nlohmann::json& object, std::string file_name, std::string path = "");

  bool contains(const char* key) const;  // present, perhaps null
  bool has(const char* key) const;       // present and not null
  // Absent or null gives the default. A value of another type, or out of range, is an error.
  int64_t positive(const char* key, int64_t fallback) const;
  std::optional<int64_t> integer(const char* key) const;
  double number(const char* key, double fallback) const;
  double positive_number(const char* key, double fallback) const;
  double probability(const char* key, double fallback) const;  // [0, 1)
  bool flag(const char* key, bool fallback) const;
  std::string text(const char* key, const std::string& fallback) const;
  ConfigReader object(const char* key) const;
  std::optional<std::vector<std::string>> texts(const char* key) const;
  std::vector<double> numbers(const char* key) const;  // none when absent or null

  // Error unless the key is absent, null or `supported`.
  void require_flag(const char* key, bool supported) const;
  // Error(kInvalidData): "<file>: <key> = <value> is not supported: <supported>".
  [[noreturn]] void unsupported(const char* key, std::string_view supported) const;
  const std::string& file_name() const { return file_name_; }

 private:
  const nlohmann::json& at(const char* key) const;
  const nlohmann::json& object_;
  std::string file_name_, path_;
};

}  // namespace sft::model
