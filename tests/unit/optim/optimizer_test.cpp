#include "sft/optim/optimizer.h"

#include <ATen/Parallel.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "optim/adamw.h"
#include "optim/sgd.h"
#include "sft/base/error.h"
#include "sft/base/file.h"

namespace sft::optim {
namespace {

using nlohmann::json;

// The same numbers as `draw` in tests/golden/make_optimizers.py.
at::Tensor draw(uint32_t stream, int64_t count) {
  at::Tensor result = at::zeros({count}, at::kFloat);
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits = stream * 2654435761U + static_cast<uint32_t>(i) * 2246822519U + 374761393U;
    bits = (bits ^ (bits >> 15)) * 2246822519U;
    bits ^= bits >> 13;
    const double unit = (bits >> 8) * 0x1.0p-24 - 0.5;
    result.data_ptr<float>()[i] = static_cast<float>(std::ldexp(unit, static_cast<int>(-(i % 7))));
  }
  return result;
}

double norm(const at::Tensor& tensor) {
  double sum = 0;
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    const double value = tensor.const_data_ptr<float>()[i];
    sum += value * value;
  }
  return std::sqrt(sum);
}

// Rounding of a step is relative to the magnitudes an element has passed through, not to where it ends: so
// every element is held to the tensor's largest, and the tensor as a whole to its norm.
void expect_close(const at::Tensor& actual, const json& expected, const std::string& what) {
  constexpr double kTolerance = 2e-7;
  const auto values = expected.get<std::vector<double>>();
  ASSERT_EQ(actual.numel(), static_cast<int64_t>(values.size()));
  double largest = 0, squares = 0, squares_of_differences = 0;
  for (const double value : values) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double difference = actual.const_data_ptr<float>()[i] - values[i];
    EXPECT_LE(std::abs(difference), kTolerance * largest) << what << ", element " << i;
    squares += values[i] * values[i];
    squares_of_differences += difference * difference;
  }
  EXPECT_LE(std::sqrt(squares_of_differences), kTolerance * std::sqrt(squares)) << what;
}

config::OptimizerOptions options_of(const json& expected) {
  config::OptimizerOptions options;
  options.optim = expected["optim"];
  options.learning_rate = expected["learning_rate"];
  options.weight_decay = expected["weight_decay"];
  options.adam_beta1 = expected["betas"][0];
  options.adam_beta2 = expected["betas"][1];
  options.adam_epsilon = expected["epsilon"];
  options.max_grad_norm = expected["max_grad_norm"];
  return options;
}

TEST(Optimizer, EqualsTorch) {
  const json golden = json::parse(base::read_text(SFT_SOURCE_DIR "/tests/golden/optimizers.json"));
  const int64_t num_decayed = golden["num_decayed"], count = num_decayed + golden["num_plain"].get<int64_t>();
  const int steps = golden["steps"];
  ASSERT_GE(golden["cases"].size(), 6U);
  for (const json& expected : golden["cases"]) {
    const std::string what = expected["optim"].get<std::string>() + " wd " + expected["weight_decay"].dump();
    const config::OptimizerOptions options = options_of(expected);
    FlatRange range{draw(0, count), at::zeros({count}, at::kFloat), num_decayed};
    const auto optimizer = Optimizer::create(options, {range});
    std::size_t next = 0;
    for (int step = 0; step < steps; ++step) {
      range.gradient.copy_(draw(static_cast<uint32_t>(step) + 1, count));
      const double scale = clip_factor(norm(range.gradient), options.max_grad_norm);
      optimizer->step(options.learning_rate * (1.0 - static_cast<double>(step) / steps), scale);
      const json& at_step = expected["trajectory"][next];
      if (at_step["step"] == step + 1) {
        expect_close(range.parameter, at_step["parameter"], what + " step " + std::to_string(step + 1));
        next = std::min(next + 1, expected["trajectory"].size() - 1);
      }
    }
    EXPECT_EQ(expected["trajectory"][next]["step"], steps);
    EXPECT_EQ(optimizer->step_count(), steps);
    const RangeState& state = optimizer->states().at(0);
    for (std::size_t i = 0; i < state.names.size(); ++i) {
      expect_close(state.tensors[i], expected[state.names[i]], what + " " + state.names[i]);
    }
    EXPECT_EQ(state.names.size(), options.optim == "sgd" ? 0U : 2U);
  }
}

// The path of other devices, run on the CPU, where torch's kernel is the reference for ours.
TEST(AdamW, BothPathsAgree) {
  const int64_t count = 1000, num_decayed = 600;
  FlatRange ours{draw(0, count), at::zeros({count}, at::kFloat), num_decayed};
  FlatRange torchs{draw(0, count), at::zeros({count}, at::kFloat), num_decayed};
  at::Tensor m1 = at::zeros({count}, at::kFloat), v1 = m1.clone(), m2 = m1.clone(), v2 = m1.clone();
  for (int64_t step = 1; step <= 25; ++step) {
    ours.gradient.copy_(draw(static_cast<uint32_t>(step), count));
    torchs.gradient.copy_(ours.gradient);
    const AdamWUpdate update{1e-3, 0.9, 0.999, 1e-8, 0.1, step % 2 == 0 ? 0.37 : 1.0, step};
    adamw_on_cpu(update, ours, m1, v1);
    adamw_by_torch(update, torchs, m2, v2);
  }
  for (const auto& [a, b] :
       {std::pair(ours.parameter, torchs.parameter), std::pair(m1, m2), std::pair(v1, v2)}) {
    EXPECT_LE(norm(a.sub(b)), 2e-7 * norm(b));
    EXPECT_GT(norm(b), 0);
  }
}

TEST(Sgd, BothPathsAgree) {
  const int64_t count = 1000, num_decayed = 600;
  FlatRange ours{draw(0, count), at::zeros({count}, at::kFloat), num_decayed};
  FlatRange torchs{draw(0, count), at::zeros({count}, at::kFloat), num_decayed};
  for (uint32_t step = 1; step <= 25; ++step) {
    ours.gradient.copy_(draw(step, count));
    torchs.gradient.copy_(ours.gradient);
    sgd_on_cpu({0.05, 0.1, 0.5}, ours);
    sgd_by_torch({0.05, 0.1, 0.5}, torchs);
  }
  EXPECT_LE(norm(ours.parameter.sub(torchs.parameter)), 2e-7 * norm(torchs.parameter));
}

TEST(Optimizer, BitsDoNotDependOnThreadsOrCuts) {
  const int64_t count = 200'003, cut = 77'777;
  for (const char* name : {"adamw_torch", "sgd"}) {
    config::OptimizerOptions options;
    options.optim = name;
    options.weight_decay = 0.1;
    const auto run = [&](int threads, bool in_two) {
      at::set_num_threads(threads);
      FlatRange whole{draw(0, count), at::zeros({count}, at::kFloat), 150'000};
      std::vector<FlatRange> ranges = {whole};
      if (in_two) {
        ranges = {{whole.parameter.narrow(0, 0, cut), whole.gradient.narrow(0, 0, cut), cut},
                  {whole.parameter.narrow(0, cut, count - cut), whole.gradient.narrow(0, cut, count - cut),
                   150'000 - cut}};
      }
      const auto optimizer = Optimizer::create(options, ranges);
      for (uint32_t step = 1; step <= 3; ++step) {
        whole.gradient.copy_(draw(step, count));
        optimizer->step(1e-2, 0.7);
      }
      return whole.parameter;
    };
    const at::Tensor expected = run(1, false);
    EXPECT_TRUE(at::equal(run(2, false), expected)) << name;
    EXPECT_TRUE(at::equal(run(3, true), expected)) << name;
    EXPECT_FALSE(at::equal(draw(0, count), expected)) << name;
  }
}

TEST(Optimizer, GapsStayZeroAndStepCountIsRestored) {
  config::OptimizerOptions options;
  options.weight_decay = 0.5;
  const FlatRange range{at::zeros({32}, at::kFloat), at::zeros({32}, at::kFloat), 16};
  const auto optimizer =
      Optimizer::create(options, {range, {at::zeros({0}, at::kFloat), at::zeros({0}, at::kFloat), 0}});
  optimizer->set_step_count(41);
  optimizer->step(0.1, 1.0);
  EXPECT_EQ(optimizer->step_count(), 42);
  EXPECT_TRUE(at::equal(range.parameter, at::zeros({32}, at::kFloat)));
}

// A restored step count and state continue as if never interrupted, bit for bit.
TEST(Optimizer, ContinuesFromState) {
  const int64_t count = 100;
  const config::OptimizerOptions options;
  const auto steps = [&](Optimizer& optimizer, FlatRange& range, uint32_t first, uint32_t last) {
    for (uint32_t step = first; step <= last; ++step) {
      range.gradient.copy_(draw(step, count));
      optimizer.step(1e-3, 1.0);
    }
  };
  FlatRange whole{draw(0, count), at::zeros({count}, at::kFloat), 50};
  const auto uninterrupted = Optimizer::create(options, {whole});
  steps(*uninterrupted, whole, 1, 10);

  FlatRange first{draw(0, count), at::zeros({count}, at::kFloat), 50};
  const auto before = Optimizer::create(options, {first});
  steps(*before, first, 1, 4);
  FlatRange second{first.parameter.clone(), at::zeros({count}, at::kFloat), 50};
  const auto after = Optimizer::create(options, {second});
  for (std::size_t i = 0; i < 2; ++i) after->states()[0].tensors[i].copy_(before->states()[0].tensors[i]);
  after->set_step_count(before->step_count());
  steps(*after, second, 5, 10);
  EXPECT_TRUE(at::equal(second.parameter, whole.parameter));
}

TEST(Optimizer, RefusesWhatItCannotUpdate) {
  config::OptimizerOptions options;
  options.optim = "adafactor";
  try {
    Optimizer::create(options, {});
    FAIL() << "adafactor was accepted";
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kConfig);
    EXPECT_NE(std::string(error.what()).find("adamw_torch_fused"), std::string::npos) << error.what();
  }
  options.optim = "sgd";
  const at::Tensor eight = at::zeros({8}, at::kFloat);
  EXPECT_THROW(Optimizer::create(options, {{eight, at::zeros({9}, at::kFloat), 0}}), base::Error);
  EXPECT_THROW(Optimizer::create(options, {{eight, at::zeros({8}, at::kDouble), 0}}), base::Error);
  EXPECT_THROW(Optimizer::create(options, {{eight, eight.clone(), 9}}), base::Error);
}

TEST(ClipFactor, IsTorchs) {
  EXPECT_EQ(clip_factor(0.5, 1.0), 1.0);
  EXPECT_EQ(clip_factor(0.0, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_factor(4.0, 1.0), 1.0 / (4.0 + 1e-6));
  EXPECT_DOUBLE_EQ(clip_factor(1.0, 1.0), 1.0 / (1.0 + 1e-6));
  EXPECT_EQ(clip_factor(1e9, 0.0), 1.0);
  EXPECT_EQ(clip_factor(std::numeric_limits<double>::infinity(), 1.0), 0.0);
  EXPECT_TRUE(std::isnan(clip_factor(std::numeric_limits<double>::quiet_NaN(), 1.0)));
}

}  // namespace
}  // namespace sft::optim
