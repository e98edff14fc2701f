#include "sft/optim/optimizer.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
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
#include "unit/optim/draw.h"

namespace sft::optim {
namespace optimizer_test {

using nlohmann::json;

double l2_norm(const at::Tensor& tensor) {
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
  constexpr double kTolerance = 2e-7, kElementTolerance = 3e-7;  // an ulp is up to 1.2e-7
  const auto values = expected.get<std::vector<double>>();
  ASSERT_EQ(actual.numel(), static_cast<int64_t>(values.size()));
  double largest = 0, squares = 0, squares_of_differences = 0;
  for (const double value : values) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double difference = actual.const_data_ptr<float>()[i] - values[i];
    EXPECT_LE(std::abs(difference), kElementTolerance * largest) << what << ", element " << i;
    squares += values[i] * values[i];
    squares_of_differences += difference * difference;
  }
  EXPECT_LE(std::sqrt(squares_of_differences), kTolerance * std::sqrt(squares)) << what;
}

config::OptimizerOptions options_of(const json& expected) {
  config::OptimizerOptions options;
  options.optim = expected["optim"];
  if (expected.contains("optim_args")) options.optim_args = expected["optim_args"].dump();
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
    const std::string what = expected["optim"].get<std::string>() + " wd " + expected["weight_decay"].dump() +
                             " " + expected.value("optim_args", json()).dump();
    const config::OptimizerOptions options = options_of(expected);
    FlatRange range{draw(0, count), at::zeros({count}, at::kFloat), num_decayed, {}};
    range.tensors = {{0, expected.value("decayed_shape", std::vector<int64_t>{8, 5})},
                     {num_decayed, {count - num_decayed}}};
    const auto optimizer = Optimizer::create(options, {range}, expected.value("warmup_steps", 0));
    std::size_t next = 0;
    for (int step = 0; step < steps; ++step) {
      range.gradient.copy_(draw(static_cast<uint32_t>(step) + 1, count));
      const double scale = clip_factor(l2_norm(range.gradient), options.max_grad_norm);
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
    for (std::size_t i = 0; i < state.names.size(); ++i)
      expect_close(state.tensors[i], expected[state.names[i]], what + " " + state.names[i]);
    for (const TensorState& tensor : state.of_tensors) {
      EXPECT_EQ(tensor.data.numel(), FlatTensor({0, tensor.shape}).numel());
      expect_close(tensor.data, expected[tensor.name], what + " " + tensor.name);
    }
    std::size_t num_expected = 0;
    for (const char* name :
         {"exp_avg", "exp_avg_sq", "momentum_buffer", "z", "exp_avg_sq_row", "exp_avg_sq_col"})
      num_expected += expected.contains(name) ? 1U : 0U;
    EXPECT_EQ(state.names.size() + state.of_tensors.size(), num_expected) << what;
    const at::Tensor trained = range.parameter.clone();
    {
      const AtEvaluationPoint at_evaluation_point(*optimizer);
      if (expected.contains("evaluated")) {
        expect_close(range.parameter, expected["evaluated"], what + " evaluated");
        EXPECT_FALSE(at::equal(range.parameter, trained)) << what;
      } else {
        EXPECT_TRUE(at::equal(range.parameter, trained)) << what;
      }
    }
    EXPECT_TRUE(at::equal(range.parameter, trained)) << what;
  }
}

// Every name the option table takes, with the options' defaults.
TEST(Optimizer, EveryNameIsMade) {
  for (const char* name : {"adamw_torch", "adamw_torch_fused", "sgd", "lion_32bit", "adafactor",
                           "schedule_free_adamw", "adamw_8bit"}) {
    config::OptimizerOptions options;
    options.optim = name;
    FlatRange range{draw(0, 48), draw(1, 48), 32, {{0, {4, 8}}, {32, {9}}}};
    const auto optimizer = Optimizer::create(options, {range});
    optimizer->step(1e-2, 1.0);
    const at::Tensor moved = range.parameter - draw(0, 48);
    for (const int64_t index : {0, 31, 32, 40})
      EXPECT_NE(moved[index].item<float>(), 0.0F) << name << ", element " << index;
    options.optim_args = "no_such=1";
    try {
      Optimizer::create(options, {});
      FAIL() << name << " took optim_args = no_such=1";
    } catch (const base::Error& error) {
      EXPECT_EQ(error.code(), base::ExitCode::kConfig);
      EXPECT_NE(std::string(error.what()).find("no_such"), std::string::npos) << error.what();
    }
  }
}

// The path of other devices, run on the CPU, where torch's kernel is the reference for ours.
TEST(AdamW, BothPathsAgree) {
  const int64_t count = 1000, num_decayed = 600;
  FlatRange ours{draw(0, count), at::zeros({count}, at::kFloat), num_decayed, {}};
  FlatRange torchs{draw(0, count), at::zeros({count}, at::kFloat), num_decayed, {}};
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
    EXPECT_LE(l2_norm(a.sub(b)), 2e-7 * l2_norm(b));
    EXPECT_GT(l2_norm(b), 0);
  }
}

TEST(Sgd, BothPathsAgree) {
  for (const bool nesterov : {false, true}) {
    const int64_t count = 1000, num_decayed = 600;
    FlatRange ours{draw(0, count), at::zeros({count}, at::kFloat), num_decayed, {}};
    FlatRange torchs{draw(0, count), at::zeros({count}, at::kFloat), num_decayed, {}};
    at::Tensor m1 = at::zeros({count}, at::kFloat), m2 = m1.clone();
    for (uint32_t step = 1; step <= 25; ++step) {
      ours.gradient.copy_(draw(step, count));
      torchs.gradient.copy_(ours.gradient);
      const SgdUpdate update{0.05, 0.1, 0.5, 0.9, nesterov ? 0.0 : 0.2, nesterov, step == 1};
      sgd_on_cpu(update, ours, m1);
      sgd_by_torch(update, torchs, m2);
    }
    EXPECT_LE(l2_norm(ours.parameter.sub(torchs.parameter)), 3e-7 * l2_norm(torchs.parameter));
    EXPECT_LE(l2_norm(m1.sub(m2)), 3e-7 * l2_norm(m2));
  }
}

TEST(Sgd, RefusesArgumentsThatDoNotGoTogether) {
  config::OptimizerOptions options;
  options.optim = "sgd";
  for (const char* args : {"nesterov=true", "momentum=0.9,nesterov=true,dampening=0.1", "momentum=-1",
                           "momentum=x", "nesterov=2", "weight_decay=0.1"}) {
    options.optim_args = args;
    EXPECT_THROW(Optimizer::create(options, {}), base::Error) << args;
  }
}

TEST(Optimizer, BitsDoNotDependOnThreadsOrCuts) {
  const int64_t count = 200'003, cut = 77'777;
  for (const char* name : {"adamw_torch", "sgd", "lion_32bit", "schedule_free_adamw"}) {
    config::OptimizerOptions options;
    options.optim = name;
    options.weight_decay = 0.1;
    const auto run = [&](int threads, bool in_two) {
      at::set_num_threads(threads);
      FlatRange whole{draw(0, count), at::zeros({count}, at::kFloat), 150'000, {}};
      std::vector<FlatRange> ranges = {whole};
      if (in_two) {
        ranges = {{whole.parameter.narrow(0, 0, cut), whole.gradient.narrow(0, 0, cut), cut, {}},
                  {whole.parameter.narrow(0, cut, count - cut),
                   whole.gradient.narrow(0, cut, count - cut),
                   150'000 - cut,
                   {}}};
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
  const FlatRange range{at::zeros({32}, at::kFloat), at::zeros({32}, at::kFloat), 16, {}};
  const auto optimizer =
      Optimizer::create(options, {range, {at::zeros({0}, at::kFloat), at::zeros({0}, at::kFloat), 0, {}}});
  optimizer->set_step_count(41);
  optimizer->step(0.1, 1.0);
  EXPECT_EQ(optimizer->step_count(), 42);
  EXPECT_TRUE(at::equal(range.parameter, at::zeros({32}, at::kFloat)));
}

// A restored step count and state continue as if never interrupted, bit for bit.
TEST(Optimizer, ContinuesFromState) {
  for (const auto& [name, args] :
       {std::pair("adamw_torch", ""), std::pair("sgd", "momentum=0.9,dampening=0.2"),
        std::pair("lion_32bit", ""), std::pair("adafactor", ""), std::pair("schedule_free_adamw", "r=1")}) {
    const int64_t count = 100;
    config::OptimizerOptions options;
    options.optim = name;
    options.optim_args = args;
    const auto steps = [&](Optimizer& optimizer, FlatRange& range, uint32_t first, uint32_t last) {
      for (uint32_t step = first; step <= last; ++step) {
        range.gradient.copy_(draw(step, count));
        optimizer.step(1e-3, 1.0);
      }
    };
    FlatRange whole{draw(0, count), at::zeros({count}, at::kFloat), 50, {{0, {5, 10}}, {50, {50}}}};
    const auto uninterrupted = Optimizer::create(options, {whole});
    steps(*uninterrupted, whole, 1, 10);

    FlatRange first{draw(0, count), at::zeros({count}, at::kFloat), 50, {{0, {5, 10}}, {50, {50}}}};
    const auto before = Optimizer::create(options, {first});
    steps(*before, first, 1, 4);
    FlatRange second{first.parameter.clone(), at::zeros({count}, at::kFloat), 50, {{0, {5, 10}}, {50, {50}}}};
    const auto after = Optimizer::create(options, {second});
    {  // as a checkpoint does: both at the point to evaluate
      const AtEvaluationPoint saved_at(*before), loaded_at(*after);
      RangeState &from = before->states()[0], &to = after->states()[0];
      ASSERT_GT(from.tensors.size() + from.of_tensors.size(), 0U);
      for (std::size_t i = 0; i < from.tensors.size(); ++i) to.tensors[i].copy_(from.tensors[i]);
      for (std::size_t i = 0; i < from.of_tensors.size(); ++i)
        to.of_tensors[i].data.copy_(from.of_tensors[i].data);
    }
    after->set_scalars(before->scalars());
    after->set_step_count(before->step_count());
    steps(*after, second, 5, 10);
    EXPECT_TRUE(at::equal(second.parameter, whole.parameter)) << name;
  }
}

TEST(Optimizer, RefusesWhatItCannotUpdate) {
  config::OptimizerOptions options;
  options.optim = "lamb";
  try {
    Optimizer::create(options, {});
    FAIL() << "lamb was accepted";
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kConfig);
    EXPECT_NE(std::string(error.what()).find("adamw_torch_fused"), std::string::npos) << error.what();
  }
  options.optim = "sgd";
  const at::Tensor eight = at::zeros({8}, at::kFloat);
  EXPECT_THROW(Optimizer::create(options, {{eight, at::zeros({9}, at::kFloat), 0, {}}}), base::Error);
  EXPECT_THROW(Optimizer::create(options, {{eight, at::zeros({8}, at::kDouble), 0, {}}}), base::Error);
  EXPECT_THROW(Optimizer::create(options, {{eight, eight.clone(), 9, {}}}), base::Error);
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

}  // namespace optimizer_test
}  // namespace sft::optim
