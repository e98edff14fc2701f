#include "sft/base/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "sft/base/error.h"

namespace sft::base {
namespace {

std::string refusal(const std::string& text, const JsonLimits& limits = {}) {
  try {
    parse_json(text, "config.json", limits);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kInvalidData);
    return error.what();
  }
  return "accepted";
}

std::string nested(int depth) {
  return std::string(static_cast<std::size_t>(depth), '[') +
         std::string(static_cast<std::size_t>(depth), ']');
}

TEST(Json, LimitsAreInclusive) {
  EXPECT_EQ(refusal(nested(4), {.depth = 4}), "accepted");
  EXPECT_EQ(refusal(nested(5), {.depth = 4}), "config.json: JSON nested deeper than 4");
  EXPECT_EQ(refusal(nested(1'000'000)), "config.json: JSON nested deeper than 32");
  EXPECT_EQ(refusal("[1, 2, {\"a\": 3}]", {.values = 5}), "accepted");
  EXPECT_EQ(refusal("[1, 2, {\"a\": 3}]", {.values = 4}), "config.json: JSON of more than 4 values");
  EXPECT_EQ(refusal("[1]", {.bytes = 3}), "accepted");
  EXPECT_EQ(refusal("[1] ", {.bytes = 3}), "config.json: JSON of 4 bytes, more than the 3 allowed");
}

TEST(Json, WhatParsersDisagreeAboutIsRefused) {
  EXPECT_EQ(refusal("{\"a\": 1, \"a\": 2}"), "config.json: key 'a' twice in one JSON object");
  EXPECT_EQ(refusal("{\"a\": {\"b\": 1}, \"b\": 2}"), "accepted");
  for (const char* text :
       {"", "{} {}", "[1,]", "{'a': 1}", "NaN", "[1] // comment", "\"\xff\"", "1e999", "01"}) {
    EXPECT_NE(refusal(text).find("config.json: not valid JSON"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace sft::base
