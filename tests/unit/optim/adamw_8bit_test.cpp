// Against bitsandbytes; what is stored, and what keeps 32 bits.
#include "optim/adamw_8bit.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "sft/base/file.h"
#include "unit/optim/draw.h"

namespace sft::optim {
namespace adamw_8bit_test {

using nlohmann::json;

json golden() {
  return json::parse(base::read_text(SFT_SOURCE_DIR "/tests/golden/adamw_8bit.json"));
}

config::OptimizerOptions options_8bit() {
  config::OptimizerOptions options;
  options.optim = "adamw_8bit";
  return options;
}

const TensorState& state_named(Optimizer& optimizer, const std::string& name) {
  for (const TensorState& state : optimizer.states()[0].of_tensors) {
    if (state.name == name) return state;
  }
  throw std::runtime_error("no state " + name);
}

TEST(DynamicMap, IsThatOfBitsandbytes) {
  const json expected = golden();
  for (const bool with_sign : {true, false}) {
    const auto map = dynamic_map(with_sign);
    const auto values = expected[with_sign ? "signed_map" : "unsigned_map"].get<std::vector<double>>();
    ASSERT_EQ(values.size(), map.size());
    for (std::size_t i = 0; i < map.size(); ++i)
      EXPECT_NEAR(static_cast<double>(map[i]), values[i], 2e-7 * std::abs(values[i])) << i;
  }
}

// A value that rounding puts on the other side of a midpoint gets the neighbouring code: rare, and then one
// apart.
TEST(AdamW8bit, EqualsBitsandbytes) {
  const json expected = golden();
  const int64_t count = expected["count"], keep = expected["keep"];
  for (const json& c : expected["cases"]) {
    config::OptimizerOptions options = options_8bit();
    options.weight_decay = c["weight_decay"];
    options.adam_beta1 = c["betas"][0];
    options.adam_beta2 = c["betas"][1];
    FlatRange range{draw(0, count), at::zeros({count}, at::kFloat), count, {{0, {50, 100}}}};
    const auto optimizer = Optimizer::create(options, {range});
    for (uint32_t step = 1; step <= expected["steps"].get<uint32_t>(); ++step) {
      range.gradient.copy_(draw(step, count));
      optimizer->step(1e-3, 1.0);
    }
    const auto parameter = c["parameter"].get<std::vector<double>>();
    int64_t different = 0;
    for (std::size_t i = 0; i < parameter.size(); ++i) {
      const double found = range.parameter.const_data_ptr<float>()[static_cast<int64_t>(i) * keep];
      EXPECT_NEAR(found, parameter[i], 1e-3) << i;
      different += std::abs(found - parameter[i]) > 1e-6 ? 1 : 0;
    }
    EXPECT_LE(different, static_cast<int64_t>(parameter.size()) / 50);
    for (const std::string moment : {"exp_avg", "exp_avg_sq"}) {
      const at::Tensor codes = state_named(*optimizer, moment + "_codes").data.view(at::kByte);
      const auto expected_codes = c[moment + "_codes"].get<std::vector<int>>();
      int64_t other_codes = 0;
      for (std::size_t i = 0; i < expected_codes.size(); ++i) {
        const int code = codes.const_data_ptr<uint8_t>()[static_cast<int64_t>(i) * keep];
        EXPECT_LE(std::abs(code - expected_codes[i]), 1) << moment << i;
        other_codes += code != expected_codes[i] ? 1 : 0;
      }
      EXPECT_LE(other_codes, static_cast<int64_t>(expected_codes.size()) / 50) << moment;
      const at::Tensor& largest = state_named(*optimizer, moment + "_largest").data;
      const auto expected_largest = c[moment + "_largest"].get<std::vector<double>>();
      ASSERT_EQ(largest.numel(), static_cast<int64_t>(expected_largest.size()));
      for (std::size_t i = 0; i < expected_largest.size(); ++i)
        EXPECT_NEAR(static_cast<double>(largest.const_data_ptr<float>()[i]), expected_largest[i],
                    1e-3 * expected_largest[i]);
    }
  }
}

TEST(AdamW8bit, SmallTensorsAndEmbeddingsKeepExactMoments) {
  const int64_t count = 3 * 4096;
  FlatRange range{draw(0, count), draw(1, count), count, {}};
  range.tensors = {{.offset = 0, .shape = {4096}},
                   {.offset = 4096, .shape = {4095}},
                   {.offset = 8192, .shape = {64, 64}, .is_embedding = true}};
  const auto optimizer = Optimizer::create(options_8bit(), {range});
  int64_t bytes[3] = {};
  for (const TensorState& state : optimizer->states()[0].of_tensors)
    bytes[state.tensor] += state.data.nbytes();
  EXPECT_EQ(bytes[0], 2 * (4096 + 16 * 4));
  EXPECT_EQ(bytes[1], 2 * 4095 * 4);
  EXPECT_EQ(bytes[2], 2 * 4096 * 4);

  config::OptimizerOptions exact = options_8bit();
  exact.optim = "adamw_torch";
  FlatRange other{draw(0, count), draw(1, count), count, {}};
  const auto reference = Optimizer::create(exact, {other});
  for (int step = 0; step < 5; ++step) {
    optimizer->step(1e-3, 1.0);
    reference->step(1e-3, 1.0);
  }
  const auto differs = [&](int64_t begin, int64_t length) {
    return (range.parameter - other.parameter).narrow(0, begin, length).abs().max().item<double>();
  };
  EXPECT_LT(differs(4096, 4095), 1e-6);
  EXPECT_LT(differs(8192, 4096), 1e-6);
  EXPECT_GT(differs(0, 4096), 1e-6);
  EXPECT_LT(differs(0, 4096), 5e-3);
}

TEST(AdamW8bit, ContinuesFromStateAndDoesNotDependOnThreads) {
  const int64_t count = 200'001;
  const auto steps = [&](Optimizer& optimizer, const FlatRange& range, uint32_t first, uint32_t last) {
    for (uint32_t step = first; step <= last; ++step) {
      range.gradient.copy_(draw(step, count));
      optimizer.step(1e-3, 0.7);
    }
  };
  const auto make = [&](const at::Tensor& start) {
    return FlatRange{start, at::zeros({count}, at::kFloat), count, {{0, {count}}}};
  };
  at::set_num_threads(1);
  const FlatRange whole = make(draw(0, count));
  const auto uninterrupted = Optimizer::create(options_8bit(), {whole});
  steps(*uninterrupted, whole, 1, 4);
  at::set_num_threads(3);
  const FlatRange first = make(draw(0, count));
  const auto before = Optimizer::create(options_8bit(), {first});
  steps(*before, first, 1, 2);
  const FlatRange second = make(first.parameter.clone());
  const auto after = Optimizer::create(options_8bit(), {second});
  for (std::size_t i = 0; i < after->states()[0].of_tensors.size(); ++i)
    after->states()[0].of_tensors[i].data.copy_(before->states()[0].of_tensors[i].data);
  after->set_step_count(2);
  steps(*after, second, 3, 4);
  EXPECT_TRUE(at::equal(second.parameter, whole.parameter));
}

}  // namespace adamw_8bit_test
}  // namespace sft::optim
