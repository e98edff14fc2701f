// The rules of the safetensors format: what must be accepted, and every way a header can lie.
#include <gtest/gtest.h>

#include <cstring>

#include "sft/base/error.h"
#include "sft/model/weights.h"
#include "support/temp_dir.h"

namespace sft::model {
namespace safetensors_test {

using base::Error;
using base::ExitCode;

std::string with_length(std::string_view header, uint64_t length) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes.append(header);
}

// A file with this header text and this many bytes of data.
std::string file_bytes(std::string_view header, std::size_t data_bytes) {
  return with_length(header, header.size()) + std::string(data_bytes, 'x');
}

class SafetensorsHeaderTest : public ::testing::Test {
 protected:
  SafetensorsHeader read(std::string_view bytes) {
    test::write_file(path_, bytes);
    return read_safetensors_header(base::File(path_, base::File::Mode::kRead));
  }

  void expect_refused(std::string_view bytes, const std::string& part_of_message) {
    try {
      read(bytes);
      FAIL() << "accepted, although: " << part_of_message;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kInvalidData);
      EXPECT_NE(std::string(error.what()).find(part_of_message), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("weights.safetensors"), std::string::npos) << error.what();
    }
  }

  test::TempDir folder_;
  std::filesystem::path path_ = folder_ / "weights.safetensors";
};

constexpr const char* kTwo =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2],"data_offsets":[12,16]},)"
    R"("a":{"dtype":"F32","shape":[3,1],"data_offsets":[0,12]}})";

TEST_F(SafetensorsHeaderTest, ReadsTensorsInFileOrder) {
  const SafetensorsHeader header = read(file_bytes(kTwo, 16));
  ASSERT_EQ(header.entries.size(), 2u);
  EXPECT_EQ(header.entries[0].name, "a");
  EXPECT_EQ(header.entries[0].shape, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(header.entries[1].name, "b");
  EXPECT_EQ(header.entries[1].dtype, "BF16");
  EXPECT_EQ(header.entries[1].begin, 12);
  EXPECT_EQ(header.entries[1].end, 16);
  EXPECT_EQ(header.metadata.at("format"), "pt");
  EXPECT_EQ(header.data_start, 8 + static_cast<int64_t>(std::strlen(kTwo)));
}

TEST_F(SafetensorsHeaderTest, AcceptsEmptyTensorsScalarsAndTrailingBlanks) {
  const SafetensorsHeader header = read(file_bytes(
      R"({"e":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]},"s":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}   )",
      8));
  EXPECT_EQ(header.entries.size(), 2u);
  EXPECT_TRUE(read(file_bytes("{}", 0)).entries.empty());
}

TEST_F(SafetensorsHeaderTest, RefusesLyingLengths) {
  expect_refused("", "too few");
  expect_refused(std::string(7, '\0'), "too few");
  expect_refused(with_length("{}", 3), "does not fit");
  expect_refused(with_length("{}", 100'000'001), "does not fit");
  expect_refused(with_length("{}", UINT64_MAX), "does not fit");
  expect_refused(with_length("{}", uint64_t{1} << 63), "does not fit");
  expect_refused(file_bytes(kTwo, 15), "truncated or has extra bytes");
  expect_refused(file_bytes(kTwo, 17), "truncated or has extra bytes");
}

TEST_F(SafetensorsHeaderTest, RefusesBadJson) {
  expect_refused(file_bytes(" {}", 0), "does not start with");
  expect_refused(file_bytes("[]", 0), "does not start with");
  expect_refused(file_bytes("", 0), "does not start with");
  expect_refused(file_bytes("{} {}", 0), "not valid JSON");
  expect_refused(file_bytes("{\"a\xff\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0),
                 "not valid JSON");
  expect_refused(file_bytes(std::string("{\"a\":") + std::string(100'000, '['), 0), "deeper");
  expect_refused(
      file_bytes(
          R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})",
          0),
      "twice");
  expect_refused(file_bytes(R"({"__metadata__":{"n":1}})", 0), "not a string");
  expect_refused(file_bytes(R"({"__metadata__":[]})", 0), "not an object");
}

TEST_F(SafetensorsHeaderTest, RefusesBadDescriptions) {
  const auto one = [](const std::string& fields) { return "{\"t\":{" + fields + "}}"; };
  expect_refused(file_bytes(R"({"t":[]})", 0), "not described by an object");
  expect_refused(file_bytes(one(R"("shape":[1],"data_offsets":[0,4])"), 4), "has no dtype");
  expect_refused(file_bytes(one(R"("dtype":"F32","data_offsets":[0,4])"), 4), "has no shape");
  expect_refused(file_bytes(one(R"("dtype":"F32","shape":[1])"), 4), "has no data_offsets");
  expect_refused(file_bytes(one(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1)"), 4),
                 "unknown field");
  expect_refused(file_bytes(one(R"("dtype":7,"shape":[1],"data_offsets":[0,4])"), 4), "not a string");
  expect_refused(file_bytes(one(R"("dtype":"F33","shape":[1],"data_offsets":[0,4])"), 4), "unknown dtype");
  expect_refused(file_bytes(one(R"("dtype":"F32","shape":1,"data_offsets":[0,4])"), 4), "not a list");
  expect_refused(file_bytes(one(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), 4),
                 "integers between");
  expect_refused(file_bytes(one(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"), 4),
                 "integers between");
  expect_refused(file_bytes(one(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4])"), 4),
                 "integers between");
  expect_refused(file_bytes(one(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,8])"), 4),
                 "two data_offsets");
  expect_refused(file_bytes(one(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), 4),
                 "ends before it begins");
  expect_refused(file_bytes(one(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 4),
                 "8 bytes by its shape and 4");
  expect_refused(file_bytes(one(R"("dtype":"F4","shape":[3],"data_offsets":[0,2])"), 2),
                 "whole number of bytes");
}

TEST_F(SafetensorsHeaderTest, RefusesShapesThatOverflow) {
  for (const char* shape : {"[4294967296,4294967296]", "[2305843009213693952,8]", "[9223372036854775807,2]",
                            "[4294967296,4294967296,0]"}) {
    expect_refused(
        file_bytes(std::string(R"({"t":{"dtype":"F32","shape":)") + shape + R"(,"data_offsets":[0,0]}})", 0),
        "whole number of bytes below");
  }
}

TEST_F(SafetensorsHeaderTest, RefusesOverlapsAndHoles) {
  const auto two = [](const char* first, const char* second) {
    return std::string(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)") + first +
           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}";
  };
  EXPECT_EQ(read(file_bytes(two("[0,4]", "[4,8]"), 8)).entries.size(), 2u);
  EXPECT_EQ(read(file_bytes(two("[4,8]", "[0,4]"), 8)).entries[0].name, "b");
  expect_refused(file_bytes(two("[0,4]", "[0,4]"), 4), "before byte 4");
  expect_refused(file_bytes(two("[0,4]", "[2,6]"), 6), "before byte 4");
  expect_refused(file_bytes(two("[0,4]", "[5,9]"), 9), "after byte 4");
  expect_refused(file_bytes(two("[1,5]", "[5,9]"), 9), "after byte 0");
}

TEST_F(SafetensorsHeaderTest, MakesNamesHarmlessInMessages) {
  expect_refused(file_bytes("{\"\\u001b[2J\":{\"dtype\":\"F33\",\"shape\":[],\"data_offsets\":[0,4]}}", 4),
                 "unknown dtype");
  try {
    read(file_bytes("{\"\\u001b[2J\":7}", 0));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\x1b'), std::string::npos);
  }
}

TEST_F(SafetensorsHeaderTest, WritesWhatItReads) {
  std::vector<SafetensorsEntry> entries = {
      {"z \"quoted\" é", "F32", {2, 3}, 0, 0}, {"empty", "F32", {0}, 0, 0}, {"a", "BF16", {5}, 0, 0}};
  const std::string text = make_safetensors_header(entries, {{"format", "pt"}});
  EXPECT_EQ(text.size() % 64, 0u);
  const SafetensorsHeader header = read(text + std::string(34, '\0'));
  EXPECT_EQ(header.data_start, static_cast<int64_t>(text.size()));
  ASSERT_EQ(header.entries.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(header.entries[i].name, entries[i].name);
    EXPECT_EQ(header.entries[i].shape, entries[i].shape);
    EXPECT_EQ(header.entries[i].begin, entries[i].begin);
    EXPECT_EQ(header.entries[i].end, entries[i].end);
  }
  EXPECT_EQ(entries[2].end, 34);
  std::vector<SafetensorsEntry> overflowing = {{"t", "F32", {INT64_MAX, 2}, 0, 0}};
  EXPECT_THROW(make_safetensors_header(overflowing, {}), Error);
}

// Any single bit of length or header flipped: refused, or a header that still obeys every rule.
TEST_F(SafetensorsHeaderTest, SurvivesEveryBitFlip) {
  std::vector<SafetensorsEntry> entries = {
      {"model.a", "F32", {4, 2}, 0, 0}, {"model.b", "BF16", {6}, 0, 0}, {"c", "F16", {1}, 0, 0}};
  const std::string good = make_safetensors_header(entries, {{"format", "pt"}}) + std::string(46, '\1');
  ASSERT_EQ(read(good).entries.size(), 3u);
  int refused = 0, accepted = 0;
  for (std::size_t byte = 0; byte + 46 < good.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[byte] = static_cast<char>(bad[byte] ^ (1 << bit));
      try {
        const SafetensorsHeader header = read(bad);
        int64_t position = 0;
        for (const SafetensorsEntry& entry : header.entries) {
          EXPECT_EQ(entry.begin, position);
          position = entry.end;
        }
        EXPECT_EQ(header.data_start + position, static_cast<int64_t>(bad.size()));
        ++accepted;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kInvalidData);
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 4 * accepted);
}

}  // namespace safetensors_test
}  // namespace sft::model
