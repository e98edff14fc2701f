// Values of options as text, in both directions.
#pragma once

#include <optional>
#include <string>

#include "option_table.h"

namespace sft::config {

// A value as it was written.
struct RawValue {
  std::string text;         // without quotes
  bool was_quoted = false;  // then `None` is a word and not the absence of a value
};

// Gives the row's field of `options` this value. Returns what is wrong with it, or nothing.
std::optional<std::string> set_value(const OptionRow& row, const RawValue& value, Options& options);

// The same check for a value that is already there.
std::optional<std::string> check_value(const OptionRow& row, const Options& options);

// As an ini file holds it (set_value takes it back), and as JSON. Absolute paths where the row is one.
std::string ini_value(const OptionRow& row, const Options& options);
std::string json_value(const OptionRow& row, const Options& options);

// "int", "float or None", ...: for people.
std::string type_name(const OptionRow& row);
// The value without making paths absolute: for messages and documentation.
std::string plain_value(const OptionRow& row, const Options& options);

}  // namespace sft::config
