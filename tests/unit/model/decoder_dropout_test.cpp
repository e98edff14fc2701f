// Dropout inside the decoder: off outside training, the same for a row wherever it is packed, and the
// backward is that of the masked forward.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "unit/model/golden_model.h"

namespace sft::model {
namespace decoder_dropout_test {

using namespace golden_models;

void with_dropout(DecoderSpec& spec) {
  spec.embedding_dropout = 0.1;
  spec.residual_dropout = 0.2;
  spec.attention_dropout = 0.3;
}

RunMode training(uint64_t seed) {
  return {.compute = ops::ComputeDtype::kFp32, .training = true, .seed = seed};
}

class DecoderDropout : public testing::TestWithParam<const char*> {
 protected:
  fs::path folder() const { return kGoldens / GetParam(); }
  std::vector<Row> rows() const {
    return read_rows(*open_safetensors_files({folder() / "golden.safetensors"}));
  }
};

TEST_P(DecoderDropout, IsOffInEvaluation) {
  Model plain(folder(), at::kDouble), dropping(folder(), at::kDouble, Spacing::kAligned, with_dropout);
  const data::MicroBatch batch = pack(rows());
  const double expected = plain.forward_backward(batch, 1.0, {});
  EXPECT_EQ(dropping.forward_backward(batch, 1.0, {}), expected);
  const double one = dropping.forward_backward(batch, 1.0, training(1));
  EXPECT_NE(one, expected);
  EXPECT_NE(dropping.forward_backward(batch, 1.0, training(2)), one);
  EXPECT_EQ(dropping.forward_backward(batch, 1.0, training(1)), one);
}

TEST_P(DecoderDropout, DoesNotDependOnThePacking) {
  Model together(folder(), at::kDouble, Spacing::kAligned, with_dropout);
  Model apart(folder(), at::kDouble, Spacing::kAligned, with_dropout);
  std::vector<Row> all = rows();
  const double expected = together.forward_backward(pack(all), 1.0, training(3));
  std::swap(all[0], all[2]);
  double sum = 0.0;
  for (const Row& row : all) sum += apart.forward_backward(pack(std::span(&row, 1)), 1.0, training(3));
  EXPECT_NEAR(sum, expected, 1e-10 * expected);
  const auto a = together.gradients(), b = apart.gradients();
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_LE((a[i].second - b[i].second).norm().item<double>(),
              1e-10 * (1.0 + a[i].second.norm().item<double>()))
        << a[i].first;
  }
}

// d(loss) along a random direction in weight space, from the gradients and from two losses.
TEST_P(DecoderDropout, BackwardIsThatOfTheMaskedForward) {
  Model model(folder(), at::kDouble, Spacing::kAligned, with_dropout);
  // Nothing may depend on the padding row's special treatment: the finite difference would see its input
  // side.
  Model moved(folder(), at::kDouble, Spacing::kAligned, with_dropout);
  const data::MicroBatch batch = pack(rows());
  const RunMode mode = training(4);
  model.forward_backward(batch, 1.0, mode);

  at::Generator generator = at::detail::createCPUGenerator(17);
  std::vector<std::vector<at::Tensor>> direction;
  double expected = 0.0;
  const auto padding = model.decoder().spec().padding_idx;
  for (std::size_t b = 0; b < model.blocks().size(); ++b) {
    direction.emplace_back();
    for (std::size_t i = 0; i < model.blocks()[b].weights.size(); ++i) {
      const at::Tensor& grad = model.blocks()[b].grads[i];
      at::Tensor step = at::randn(grad.sizes(), generator, grad.options());
      // The padding row's gradient leaves out its input side, which a finite difference would see.
      if (b == 0 && i == 0 && padding) step[*padding].zero_();
      direction.back().push_back(step);
      expected += (grad * step).sum().item<double>();
    }
  }
  constexpr double kStep = 1e-6;
  moved.move_weights(direction, kStep);
  const double up = moved.forward_backward(batch, 1.0, mode);
  moved.move_weights(direction, -2 * kStep);
  const double down = moved.forward_backward(batch, 1.0, mode);
  EXPECT_NEAR((up - down) / (2 * kStep), expected, 1e-5 * std::abs(expected) + 1e-4);
}

// NEFTune adds its noise to what the embedding module gives: in Gemma that is scaled already, in Granite it
// is not. With all embeddings 0, what reaches the first layer is the noise alone, up to its bound for a row
// of 14 tokens.
TEST(EmbeddingNoise, ComesWhereTransformersEmbeddingEnds) {
  for (const auto& [name, scale] : std::vector<std::pair<std::string, double>>{{"gemma", 1},
                                                                               {"gemma2", 1},
                                                                               {"gemma3", 1},
                                                                               {"granite", 3},
                                                                               {"granitemoe", 3},
                                                                               {"llama-untied", 1}}) {
    const fs::path config = kGoldens / name / "config.json";
    const auto decoder = Decoder::create(spec_from_config_json(base::read_text(config), config.string()));
    const DecoderSpec& spec = decoder->spec();
    const std::vector<at::Tensor> weights{at::zeros({spec.vocab_size, spec.hidden_size})};
    const std::vector<int64_t> ids(14, 1);
    const data::MicroBatch batch = pack(std::vector<Row>{{ids, ids, 0}});
    RunMode mode = training(5);
    mode.neftune_alpha = 7;
    const at::Tensor x =
        decoder->embedding_forward({weights, {}}, decoder->make_inputs(batch, at::kCPU), mode, nullptr);
    const double bound = scale * 7 / std::sqrt(14.0 * static_cast<double>(spec.hidden_size));
    const double largest = x.abs().max().item<double>();
    EXPECT_LE(largest, bound * (1 + 1e-6)) << name;
    EXPECT_GT(largest, 0.95 * bound) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, DecoderDropout,
                         testing::Values("llama-tied-padding", "opt-350m-kind", "opt-plain-norms", "gpt2"));

}  // namespace decoder_dropout_test
}  // namespace sft::model
