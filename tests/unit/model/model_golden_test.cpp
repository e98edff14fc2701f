// Every model family against transformers: logits, loss and every gradient of tiny random models.
// The goldens are made by tests/golden/make_model_goldens.py.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "sft/base/file.h"
#include "sft/model/decoder.h"
#include "sft/model/weights.h"

namespace sft::model {
namespace {

namespace fs = std::filesystem;

const fs::path kGoldens = fs::path(SFT_SOURCE_DIR) / "tests" / "golden" / "models";

at::Tensor read_tensor(const TensorSource& source, const std::string& name) {
  const std::vector<int64_t> shape = source.shape(name);
  at::Tensor t = at::empty(shape, at::TensorOptions(at::kFloat));
  source.read(name, 0, t.numel(), t);
  return t;
}

// The flat buffers of one block as the engine makes them: every view on a 64-byte boundary, or one element
// further on.
struct FlatBlock {
  std::vector<at::Tensor> weights, grads;
  BlockTensors views() const { return {weights, grads}; }
};

enum class Spacing { kAligned, kGaps };

FlatBlock make_block(const std::vector<TensorDef>& defs, const TensorSource& source, at::ScalarType dtype,
                     Spacing spacing) {
  int64_t total = 0;
  std::vector<int64_t> offsets;
  for (const TensorDef& def : defs) {
    offsets.push_back(total);
    total += (def.numel() + 15) / 16 * 16 + (spacing == Spacing::kGaps ? 16 : 0);
  }
  const at::Tensor weights = at::zeros({total}, at::TensorOptions(dtype)), grads = at::zeros_like(weights);
  FlatBlock block;
  for (std::size_t i = 0; i < defs.size(); ++i) {
    block.weights.push_back(weights.narrow(0, offsets[i], defs[i].numel()).view(defs[i].shape));
    block.grads.push_back(grads.narrow(0, offsets[i], defs[i].numel()).view(defs[i].shape));
    block.weights.back().copy_(read_tensor(source, defs[i].name));
  }
  return block;
}

struct Row {
  std::vector<int64_t> ids, labels;
};

std::vector<int64_t> integers(const at::Tensor& t) {
  const at::Tensor whole = t.to(at::kLong).contiguous();
  const auto* values = whole.const_data_ptr<int64_t>();
  return {values, values + whole.numel()};
}

std::vector<Row> read_rows(const TensorSource& golden) {
  const auto ids = integers(read_tensor(golden, "input_ids")),
             labels = integers(read_tensor(golden, "labels"));
  std::vector<Row> rows;
  auto begin = std::ptrdiff_t{0};
  for (const int64_t length : integers(read_tensor(golden, "lengths"))) {
    rows.push_back({{ids.begin() + begin, ids.begin() + begin + length},
                    {labels.begin() + begin, labels.begin() + begin + length}});
    begin += length;
  }
  return rows;
}

data::MicroBatch pack(std::span<const Row> rows) {
  std::vector<int64_t> ids, positions, target_positions, target_ids;
  data::MicroBatch batch;
  batch.cu_seqlens = {0};
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < row.ids.size(); ++i) {
      if (i + 1 < row.ids.size() && row.labels[i + 1] != data::kIgnoreIndex) {
        target_positions.push_back(static_cast<int64_t>(ids.size()));
        target_ids.push_back(row.labels[i + 1]);
      }
      ids.push_back(row.ids[i]);
      positions.push_back(static_cast<int64_t>(i));
    }
    batch.cu_seqlens.push_back(static_cast<int64_t>(ids.size()));
    batch.rows.push_back({0, static_cast<int64_t>(batch.rows.size()), 0});
  }
  const auto options = at::TensorOptions(at::kLong);
  batch.input_ids = at::tensor(ids, options);
  batch.position_ids = at::tensor(positions, options);
  batch.target_positions = at::tensor(target_positions, options);
  batch.target_ids = at::tensor(target_ids, options);
  return batch;
}

class Model {
 public:
  Model(const fs::path& folder, at::ScalarType dtype, Spacing spacing) {
    const fs::path config = folder / "config.json";
    decoder_ = Decoder::create(spec_from_config_json(base::read_text(config), config.string()));
    const auto weights = open_model_weights(folder);
    for (int64_t b = 0; b < decoder_->num_blocks(); ++b) {
      blocks_.push_back(make_block(decoder_->block_tensors(b), *weights, dtype, spacing));
    }
  }

  // Adds the gradients of loss_scale * (sum of cross-entropy); returns that sum.
  double forward_backward(const data::MicroBatch& batch, double loss_scale, const RunMode& mode) {
    const DecoderInputs in = decoder_->make_inputs(batch, at::kCPU);
    const int64_t layers = decoder_->num_layers();
    std::vector<BlockSaved> saved(static_cast<std::size_t>(layers) + 1);
    at::Tensor x = decoder_->embedding_forward(block(0), in, mode, saved.data());
    for (int64_t l = 0; l < layers; ++l) {
      x = decoder_->layer_forward(l, block(l + 1), x, in, mode, &saved[static_cast<std::size_t>(l) + 1]);
    }
    logits_ = decoder_->head_logits(block(layers + 1), block(0), x, mode);
    const auto head = decoder_->head_forward_backward(block(layers + 1), block(0), x, in, mode, loss_scale);
    EXPECT_EQ(decoder_->head_forward(block(layers + 1), block(0), x, in, mode).loss_sum.item<double>(),
              head.loss_sum.item<double>());
    at::Tensor grad = head.grad;
    for (int64_t l = layers - 1; l >= 0; --l) {
      grad =
          decoder_->layer_backward(l, block(l + 1), grad, in, mode, saved[static_cast<std::size_t>(l) + 1]);
    }
    decoder_->embedding_backward(block(0), grad, in, mode, saved[0]);
    return head.loss_sum.item<double>();
  }

  const Decoder& decoder() const { return *decoder_; }
  const at::Tensor& logits() const { return logits_; }
  std::vector<std::pair<std::string, at::Tensor>> gradients() const {
    std::vector<std::pair<std::string, at::Tensor>> all;
    for (int64_t b = 0; b < decoder_->num_blocks(); ++b) {
      const auto& defs = decoder_->block_tensors(b);
      for (std::size_t i = 0; i < defs.size(); ++i) {
        all.emplace_back(defs[i].name, blocks_[static_cast<std::size_t>(b)].grads[i]);
      }
    }
    return all;
  }

 private:
  BlockTensors block(int64_t b) const { return blocks_[static_cast<std::size_t>(b)].views(); }
  std::unique_ptr<Decoder> decoder_;
  std::vector<FlatBlock> blocks_;
  at::Tensor logits_;
};

double relative_l2(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor e = expected.to(at::kDouble);
  return ((actual.to(at::kDouble) - e).norm() / e.norm()).item<double>();
}

// Gradients, each by its relative L2 distance. A key bias of a model without rotary positions has a true
// gradient of zero (softmax does not see it): there only the size counts.
void expect_gradients(const Model& model, const TensorSource& golden, double tolerance) {
  std::size_t compared = 0;
  for (const auto& [name, grad] : model.gradients()) {
    const at::Tensor expected = read_tensor(golden, "grad." + name);
    ASSERT_EQ(grad.sizes(), expected.sizes()) << name;
    if (expected.norm().item<double>() < 1e-12) {
      EXPECT_LE(grad.norm().item<double>(), 1e-6) << name;
    } else {
      EXPECT_LE(relative_l2(grad, expected), tolerance) << name;
    }
    ++compared;
  }
  std::size_t stored = 0;
  for (const std::string& name : golden.names()) stored += name.starts_with("grad.") ? 1 : 0;
  EXPECT_EQ(compared, stored) << "every gradient of transformers has its counterpart";
}

class ModelGolden : public testing::TestWithParam<const char*> {
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

// Twice the weights' worth of bf16 rounding: far from exact, far from wrong.
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
  EXPECT_LE(distance, 0.03);
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

INSTANTIATE_TEST_SUITE_P(Families, ModelGolden,
                         testing::Values("llama-untied", "llama-tied-padding", "llama-biased-head-dim",
                                         "llama-rope-linear", "llama-rope-llama3", "opt-125m-kind",
                                         "opt-350m-kind", "opt-plain-norms", "gpt2", "gpt2-untied-unscaled"));

}  // namespace
}  // namespace sft::model
