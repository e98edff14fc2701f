// Every model family against transformers: logits, loss and every gradient of tiny random models.
// The goldens are made by tests/golden/make_model_goldens.py.
#include <ATen/ops/cat.h>

#include <algorithm>
#include <set>

#include "model/families/family.h"
#include "unit/model/golden_model.h"

namespace sft::model {
namespace model_golden_test {

using namespace golden_models;

double relative_l2(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor e = expected.to(at::kDouble);
  return ((actual.to(at::kDouble) - e).norm() / e.norm()).item<double>();
}

// Gradients, each by its relative L2 distance. A key bias of a model without rotary positions has a true
// gradient of zero (softmax does not see it): there only the size counts.
void expect_gradients(const Model& model, const TensorSource& golden, double tolerance,
                      const std::string& prefix = "grad.") {
  std::size_t compared = 0;
  double largest = 0.0;
  for (const auto& [name, grad] : model.gradients()) {
    if (prefix != "grad." && !golden.contains(prefix + name)) {  // it does not reach this tensor
      EXPECT_EQ(grad.norm().item<double>(), 0.0) << name;
      continue;
    }
    const at::Tensor expected = read_tensor(golden, prefix + name);
    ASSERT_EQ(grad.sizes(), expected.sizes()) << name;
    if (expected.norm().item<double>() < 1e-12) {
      EXPECT_LE(grad.norm().item<double>(), 1e-6) << name;
    } else {
      const double difference = relative_l2(grad, expected);
      EXPECT_LE(difference, tolerance) << name;
      largest = std::max(largest, difference);
    }
    ++compared;
  }
  testing::Test::RecordProperty("largest_gradient_difference", std::to_string(largest * 1e9) + "e-9");
  std::size_t stored = 0;
  for (const std::string& name : golden.names()) stored += name.starts_with(prefix) ? 1 : 0;
  EXPECT_GT(stored, 0U);
  EXPECT_EQ(compared, stored) << "every gradient of transformers has its counterpart";
}

class ModelGolden : public testing::TestWithParam<std::string> {
 protected:
  fs::path folder() const { return kGoldens / GetParam(); }
  std::unique_ptr<TensorSource> golden() const {
    return open_safetensors_files({folder() / "golden.safetensors"});
  }
};

struct Tolerance {
  double logits, loss, gradient;
};
// The goldens hold float64 results rounded to float32: 6e-8.
constexpr Tolerance kFloat64{1e-7, 1e-7, 2e-7};
constexpr Tolerance kFloat32{1e-5, 1e-5, 1e-5};

void compare(const fs::path& folder, const TensorSource& golden, at::ScalarType dtype, Spacing spacing,
             std::size_t rows_per_batch, const Tolerance& tolerance) {
  Model model(folder, dtype, spacing);
  const std::vector<Row> rows = read_rows(golden);
  const auto num_targets = static_cast<double>(pack(rows).num_targets());
  double loss_sum = 0.0;
  std::vector<at::Tensor> logits;
  for (std::size_t begin = 0; begin < rows.size(); begin += rows_per_batch) {
    const auto part = std::span(rows).subspan(begin, std::min(rows_per_batch, rows.size() - begin));
    loss_sum += model.forward_backward(pack(part), 1.0 / num_targets, {});
    logits.push_back(model.logits());
  }
  EXPECT_LE(relative_l2(at::cat(logits, 0), read_tensor(golden, "logits")), tolerance.logits);
  EXPECT_NEAR(loss_sum / num_targets, read_tensor(golden, "loss.float64").item<double>(), 6 * tolerance.loss);
  expect_gradients(model, golden, tolerance.gradient);
}

TEST_P(ModelGolden, Float64) {
  compare(folder(), *golden(), at::kDouble, Spacing::kAligned, 4, kFloat64);
}
TEST_P(ModelGolden, Float32) {
  compare(folder(), *golden(), at::kFloat, Spacing::kAligned, 4, kFloat32);
}
// q, k, v and gate, up are then multiplied one by one.
TEST_P(ModelGolden, Float32WithGapsBetweenTensors) {
  compare(folder(), *golden(), at::kFloat, Spacing::kGaps, 4, kFloat32);
}
// Gradients add up over micro-batches; one of them has a single token and no target.
TEST_P(ModelGolden, Float64OneRowAtATime) {
  compare(folder(), *golden(), at::kDouble, Spacing::kAligned, 1, kFloat64);
}

// Twice the weights' worth of bf16 rounding: far from exact, far from wrong. In a mixture a token close to a
// choice may go to another expert.
TEST_P(ModelGolden, Bf16IsNear) {
  Model model(folder(), at::kFloat, Spacing::kAligned);
  const auto reference = golden();
  const data::MicroBatch batch = pack(read_rows(*reference));
  RunMode mode;
  mode.compute = ops::ComputeDtype::kBf16;
  const auto count = static_cast<double>(batch.num_targets());
  const double loss = model.forward_backward(batch, 1.0 / count, mode) / count;
  EXPECT_NEAR(loss, read_tensor(*reference, "loss.float64").item<double>(), 0.02);
  const double distance = relative_l2(model.logits(), read_tensor(*reference, "logits"));
  EXPECT_LE(distance, model.decoder().spec().mixture ? 0.06 : 0.03);
  EXPECT_GE(distance, 1e-5) << "bf16 operands leave a trace";
}

TEST_P(ModelGolden, EmptyMicroBatch) {
  Model model(folder(), at::kFloat, Spacing::kAligned);
  EXPECT_EQ(model.forward_backward(pack({}), 1.0, {}), 0.0);
  for (const auto& [name, grad] : model.gradients()) EXPECT_EQ(grad.abs().sum().item<double>(), 0.0) << name;
}

TEST_P(ModelGolden, CountsItsParametersAndNamesThemAsTheFileDoes) {
  const Model model(folder(), at::kFloat, Spacing::kAligned);
  const auto weights = open_model_weights(folder());
  int64_t stored = 0;
  for (const std::string& name : weights->names()) {
    int64_t count = 1;
    for (const int64_t size : weights->shape(name)) count *= size;
    stored += count;
  }
  EXPECT_EQ(model.decoder().spec().num_parameters, stored);
  for (int64_t b = 0; b < model.decoder().num_blocks(); ++b) {
    bool decay = true;
    for (const TensorDef& def : model.decoder().block_tensors(b)) {
      EXPECT_EQ(def.shape, weights->shape(def.name)) << def.name;
      EXPECT_EQ(def.decay, def.shape.size() >= 2) << def.name;
      EXPECT_TRUE(decay || !def.decay) << def.name << ": decayed tensors come first";
      decay = def.decay;
    }
  }
}

// The load-balancing loss of mixtures of experts, apart from the cross-entropy.
class BalanceGolden : public ModelGolden {
 protected:
  void expect_balance(at::ScalarType dtype, const Tolerance& tolerance) const {
    const auto reference = golden();
    Model model(folder(), dtype, Spacing::kAligned);
    model.forward_backward(pack(read_rows(*reference)), /*loss_scale=*/0.0, {}, /*aux_scale=*/1.0);
    EXPECT_NEAR(model.aux_loss(), read_tensor(*reference, "aux_loss.float64").item<double>(),
                4 * tolerance.loss);
    expect_gradients(model, *reference, tolerance.gradient, "aux_grad.");
  }
};

TEST_P(BalanceGolden, LossAndGradient) {
  // transformers takes the router's softmax in float32, in a float64 model too.
  expect_balance(at::kDouble, {kFloat64.logits, kFloat64.loss, 1e-6});
  expect_balance(at::kFloat, kFloat32);
}

INSTANTIATE_TEST_SUITE_P(Mixtures, BalanceGolden,
                         testing::Values("granitemoe", "mixtral", "olmoe", "qwen2-moe", "qwen3-moe"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

std::vector<std::string> all_goldens() {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(kGoldens)) {
    names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Families, ModelGolden, testing::ValuesIn(all_goldens()), [](const auto& test) {
  std::string name = test.param;
  std::ranges::replace(name, '-', '_');
  return name;
});

TEST(ModelGoldens, EveryFamilyHasOne) {
  std::set<std::string> seen;
  for (const std::string& name : all_goldens()) {
    const fs::path config = kGoldens / name / "config.json";
    seen.insert(spec_from_config_json(base::read_text(config), config.string()).model_type);
  }
  for (const Family* family : all_families())
    EXPECT_TRUE(seen.contains(std::string(family->model_type))) << family->model_type;
}

}  // namespace model_golden_test
}  // namespace sft::model
