// Tensors from model folders: conversion to fp32, ranges, indexes that lie.
#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "sft/base/error.h"
#include "sft/model/weights.h"
#include "support/temp_dir.h"

namespace sft::model {
namespace weights_test {

using base::Error;
using base::ExitCode;

template <typename T>
std::string as_bytes(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

struct Stored {
  std::string name, dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

void write_safetensors(const std::filesystem::path& path, const std::vector<Stored>& tensors) {
  std::vector<SafetensorsEntry> entries;
  std::string data;
  for (const Stored& tensor : tensors) {
    entries.push_back({tensor.name, tensor.dtype, tensor.shape, 0, 0});
    data += tensor.bytes;
  }
  test::write_file(path, make_safetensors_header(entries, {{"format", "pt"}}) + data);
}

std::vector<float> read(const TensorSource& source, const std::string& name, int64_t begin, int64_t end) {
  std::vector<float> values(static_cast<std::size_t>(end - begin));
  source.read(name, begin, end, at::from_blob(values.data(), {end - begin}, at::kFloat));
  return values;
}

void expect_refused(const std::function<void()>& action, const std::string& part_of_message) {
  try {
    action();
    FAIL() << "accepted, although: " << part_of_message;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kInvalidData);
    EXPECT_NE(std::string(error.what()).find(part_of_message), std::string::npos) << error.what();
  }
}

TEST(Weights, ConvertsEveryFloatingPointType) {
  const test::TempDir folder;
  // Bit patterns from the definitions of the formats (IEEE 754 binary16; bfloat16 is the upper half of
  // binary32).
  write_safetensors(folder / "model.safetensors",
                    {{"f32", "F32", {2}, as_bytes<float>({1.5F, -0.1F})},
                     {"bf16", "BF16", {3}, as_bytes<uint16_t>({0x3FC0, 0xC000, 0x7F80})},
                     {"f16", "F16", {3}, as_bytes<uint16_t>({0x3E00, 0xC000, 0x0001})},
                     {"f64", "F64", {2}, as_bytes<double>({0.1, -3.0})},
                     {"i64", "I64", {1}, as_bytes<int64_t>({7})}});
  const auto source = open_model_weights(folder.path());
  EXPECT_EQ(read(*source, "f32", 0, 2), (std::vector<float>{1.5F, -0.1F}));
  EXPECT_EQ(read(*source, "bf16", 0, 3), (std::vector<float>{1.5F, -2.0F, INFINITY}));
  EXPECT_EQ(read(*source, "f16", 0, 3), (std::vector<float>{1.5F, -2.0F, std::ldexp(1.0F, -24)}));
  EXPECT_EQ(read(*source, "f64", 0, 2), (std::vector<float>{static_cast<float>(0.1), -3.0F}));
  EXPECT_EQ(source->dtype("bf16"), "BF16");
  expect_refused([&] { read(*source, "i64", 0, 1); }, "stored as I64");
  expect_refused([&] { read(*source, "none", 0, 1); }, "no tensor 'none'");
  expect_refused([&] { read(*source, "f32", 1, 3); }, "which has 2");
  EXPECT_TRUE(source->contains("f16"));
  EXPECT_FALSE(source->contains("none"));
}

TEST(Weights, ReadsRangesAndCountsBytes) {
  const test::TempDir folder;
  // Larger than one piece and one conversion buffer, so that threads and loops meet their seams.
  constexpr int64_t kNumel = 17'000'003;
  std::vector<uint16_t> halves(kNumel);
  std::vector<float> floats(kNumel);
  for (int64_t i = 0; i < kNumel; ++i) {
    const auto value = static_cast<float>(i % 251);  // exact in bf16
    uint32_t bits = 0;
    std::memcpy(&bits, &value, 4);
    halves[static_cast<std::size_t>(i)] = static_cast<uint16_t>(bits >> 16);
    floats[static_cast<std::size_t>(i)] = static_cast<float>(i);
  }
  write_safetensors(folder / "model.safetensors", {{"half", "BF16", {kNumel}, as_bytes(halves)},
                                                   {"full", "F32", {kNumel}, as_bytes(floats)}});
  const auto source = open_model_weights(folder.path());
  const int64_t header_bytes = source->bytes_read();
  EXPECT_LT(header_bytes, 1024);
  const std::vector<float> half = read(*source, "half", 1, kNumel - 1);
  const std::vector<float> full = read(*source, "full", 3, kNumel);
  bool all_equal = true;
  for (int64_t i = 1; i < kNumel - 1; ++i)
    all_equal &= half[static_cast<std::size_t>(i - 1)] == static_cast<float>(i % 251);
  for (int64_t i = 3; i < kNumel; ++i)
    all_equal &= full[static_cast<std::size_t>(i - 3)] == static_cast<float>(i);
  EXPECT_TRUE(all_equal);
  EXPECT_EQ(source->bytes_read(), header_bytes + 2 * (kNumel - 2) + 4 * (kNumel - 3));
  EXPECT_TRUE(read(*source, "full", 5, 5).empty());
}

class ShardedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write_safetensors(folder_ / "model-00001-of-00002.safetensors",
                      {{"a", "F32", {1}, as_bytes<float>({1})}});
    write_safetensors(folder_ / "model-00002-of-00002.safetensors",
                      {{"b", "F32", {2}, as_bytes<float>({2, 3})}});
  }
  void write_index(const std::string& weight_map, const std::string& metadata = R"({"total_size":12})") {
    test::write_file(folder_ / "model.safetensors.index.json",
                     R"({"metadata":)" + metadata + R"(,"weight_map":)" + weight_map + "}");
  }
  void expect_index_refused(const std::string& weight_map, const std::string& message,
                            const std::string& metadata = R"({"total_size":12})") {
    write_index(weight_map, metadata);
    expect_refused([&] { open_model_weights(folder_.path()); }, message);
  }
  test::TempDir folder_;
};

constexpr const char* kGoodMap =
    R"({"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"})";

TEST_F(ShardedTest, ReadsShards) {
  for (const char* metadata : {R"({"total_size":12})", R"({"total_size":12.0})", "{}"}) {
    write_index(kGoodMap, metadata);
    const auto source = open_model_weights(folder_.path());
    EXPECT_EQ(source->names(), (std::vector<std::string>{"a", "b"}));
    EXPECT_EQ(read(*source, "a", 0, 1), std::vector<float>{1});
    EXPECT_EQ(read(*source, "b", 1, 2), std::vector<float>{3});
  }
}

TEST_F(ShardedTest, ReadsWhatConvertersLeft) {
  // Old exporters counted eight bools as a byte; what is tied keeps its entry in the index.
  for (const char* metadata : {R"({"total_size":13})", R"({"total_size":"12"})"}) {
    write_index(R"({"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors","c":"model-00002-of-00002.safetensors"})",
                metadata);
    EXPECT_EQ(open_model_weights(folder_.path())->names(), (std::vector<std::string>{"a", "b"}));
  }
}

TEST_F(ShardedTest, KeepsPathsInsideTheFolder) {
  test::TempDir outside;
  write_safetensors(outside / "secret.safetensors", {{"a", "F32", {1}, as_bytes<float>({1})}});
  for (const std::string& path :
       {"../" + outside.path().filename().string() + "/secret.safetensors",
        outside.path().string() + "/secret.safetensors", std::string("./model-00001-of-00002.safetensors"),
        std::string(".hidden.safetensors"), std::string("model.bin"), std::string(""),
        std::string("a\\\\b.safetensors"), std::string(252, 'a') + ".safetensors"}) {
    expect_index_refused(R"({"a":")" + path + R"("})", "not a plain *.safetensors file name");
  }
  expect_index_refused(R"({"a":7})", "not a plain *.safetensors file name");
}

TEST_F(ShardedTest, RefusesAnIndexThatDisagrees) {
  expect_index_refused(R"({"a":"model-00001-of-00002.safetensors","b":"model-00003-of-00002.safetensors"})",
                       "missing");
  expect_index_refused(R"({"b":"model-00001-of-00002.safetensors"})", "does not list it");
  expect_index_refused("{}", "empty");
  expect_index_refused("[]", "weight_map");
  write_safetensors(folder_ / "model-00001-of-00002.safetensors",
                    {{"a", "F32", {1}, as_bytes<float>({1})}, {"b", "F32", {2}, as_bytes<float>({2, 3})}});
  expect_index_refused(kGoodMap, "says it is in model-00002", "{}");
}

TEST_F(ShardedTest, RefusesTheSameTensorTwice) {
  write_safetensors(folder_ / "other.safetensors", {{"a", "F32", {1}, as_bytes<float>({1})}});
  expect_refused(
      [&] {
        open_safetensors_files({folder_ / "model-00001-of-00002.safetensors", folder_ / "other.safetensors"});
      },
      "tensor 'a' is in");
}

TEST(Weights, SaysWhatIsMissing) {
  const test::TempDir folder;
  expect_refused([&] { open_model_weights(folder.path()); },
                 "neither model.safetensors nor model.safetensors.index.json");
}

}  // namespace weights_test
}  // namespace sft::model
