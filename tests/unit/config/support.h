// What the tests of this room share.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "sft/base/error.h"
#include "sft/config/parse.h"

namespace sft::config {

inline ParsedOptions parse_text(const std::string& text, const std::vector<std::string>& settings = {}) {
  return parse_options({{"run.ini", text}}, settings);
}

// The message that `action` fails with; the test fails when it does not, or with another code.
template <typename Action>
std::string config_error_of(Action&& action) {
  try {
    action();
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kConfig);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

inline std::string error_of_text(const std::string& text, const std::vector<std::string>& settings = {}) {
  return config_error_of([&] { parse_text(text, settings); });
}

}  // namespace sft::config
