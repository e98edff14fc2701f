// Adapters against PEFT: logits, loss and every gradient. The goldens are made by
// tests/golden/make_lora_goldens.py.
#include <ATen/ops/cat.h>

#include <nlohmann/json.hpp>

#include "unit/model/golden_model.h"

namespace sft::model {
namespace lora_golden_test {

using namespace golden_models;

const fs::path kAdapters = fs::path(SFT_SOURCE_DIR) / "tests" / "golden" / "lora";

double relative_l2(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor e = expected.to(at::kDouble);
  return ((actual.to(at::kDouble) - e).norm() / e.norm()).item<double>();
}

class LoraGolden : public testing::TestWithParam<const char*> {
 protected:
  fs::path adapter() const { return kAdapters / GetParam(); }
  fs::path base() const {
    const auto config = nlohmann::json::parse(base::read_text(adapter() / kAdapterConfigFile));
    return kGoldens / config["base_model_name_or_path"].get<std::string>();
  }
  std::unique_ptr<TensorSource> golden() const {
    return open_safetensors_files({adapter() / "golden.safetensors"});
  }
  std::vector<Row> rows() const {
    return read_rows(*open_safetensors_files({base() / "golden.safetensors"}));
  }

  void compare(at::ScalarType dtype, Spacing spacing, std::size_t rows_per_batch, double tolerance) const {
    Model model(base(), dtype, spacing, {}, adapter());
    const auto expected = golden();
    const std::vector<Row> all = rows();
    const auto num_targets = static_cast<double>(pack(all).num_targets());
    double loss_sum = 0.0;
    std::vector<at::Tensor> logits;
    for (std::size_t begin = 0; begin < all.size(); begin += rows_per_batch) {
      const auto part = std::span(all).subspan(begin, std::min(rows_per_batch, all.size() - begin));
      loss_sum += model.forward_backward(pack(part), 1.0 / num_targets, {});
      logits.push_back(model.logits());
    }
    EXPECT_LE(relative_l2(at::cat(logits, 0), read_tensor(*expected, "logits")), tolerance);
    EXPECT_NEAR(loss_sum / num_targets, read_tensor(*expected, "loss.float64").item<double>(), 6 * tolerance);
    std::size_t compared = 0, stored = 0;
    for (const auto& [name, grad] : model.gradients()) {
      ASSERT_TRUE(expected->contains("grad." + name)) << name << " is trained here and not in PEFT";
      const at::Tensor reference = read_tensor(*expected, "grad." + name);
      ASSERT_EQ(grad.sizes(), reference.sizes()) << name;
      EXPECT_LE(relative_l2(grad, reference), 2 * tolerance) << name;
      ++compared;
    }
    for (const std::string& name : expected->names()) stored += name.starts_with("grad.") ? 1 : 0;
    EXPECT_EQ(compared, stored) << "every gradient of PEFT has its counterpart";
  }
};

// The goldens hold float64 results rounded to float32.
TEST_P(LoraGolden, Float64) {
  compare(at::kDouble, Spacing::kAligned, 4, 1e-7);
}
TEST_P(LoraGolden, Float32) {
  compare(at::kFloat, Spacing::kAligned, 4, 1e-5);
}
TEST_P(LoraGolden, Float32WithGapsBetweenTensors) {
  compare(at::kFloat, Spacing::kGaps, 4, 1e-5);
}
TEST_P(LoraGolden, Float64OneRowAtATime) {
  compare(at::kDouble, Spacing::kAligned, 1, 1e-7);
}

TEST_P(LoraGolden, MergedWeightsGiveTheSameLogits) {
  Model model(base(), at::kDouble, Spacing::kAligned, {}, adapter());
  const auto expected = golden();
  model.merge_adapters();
  model.forward_backward(pack(rows()), 1.0, {});
  EXPECT_LE(relative_l2(model.logits(), read_tensor(*expected, "logits")), 1e-7);
  if (expected->contains("merged")) {
    EXPECT_LE(relative_l2(model.logits(), read_tensor(*expected, "merged")), 1e-7);
  }
}

TEST_P(LoraGolden, TrainsExactlyTheTensorsOfTheFile) {
  const Model model(base(), at::kFloat, Spacing::kAligned, {}, adapter());
  std::vector<std::string> trained;
  for (int64_t b = 0; b < model.decoder().num_blocks(); ++b) {
    for (const TensorDef& def : model.decoder().block_tensors(b)) {
      if (def.trainable) trained.push_back(def.name);
    }
  }
  std::ranges::sort(trained);
  EXPECT_EQ(trained, open_adapter_weights(adapter())->names());
}

INSTANTIATE_TEST_SUITE_P(Adapters, LoraGolden,
                         testing::Values("llama-all-linear", "llama-query-value", "llama-head-saved",
                                         "llama-embedding-saved", "llama-dora", "gpt2", "gpt2-dora",
                                         "opt-projected"));

}  // namespace lora_golden_test
}  // namespace sft::model
