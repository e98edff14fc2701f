// LayerNorm and RMSNorm against LibTorch's autograd in float64.
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/rsqrt.h>

#include "unit/ops/reference.h"

namespace sft::ops {
namespace norm_test {

using namespace test;

struct Case {
  NormKind kind;
  int64_t tokens, features;
  bool affine;
  at::ScalarType dtype;
};

class Norm : public testing::TestWithParam<Case> {};

constexpr double kEps = 1e-5;

at::Tensor reference(NormKind kind, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (kind == NormKind::kLayerNorm) return at::layer_norm(x, {x.size(1)}, weight, bias, kEps);
  // As in transformers' LlamaRMSNorm.
  const at::Tensor y = x * at::rsqrt(x.pow(2).mean(1, true) + kEps);
  return weight.defined() ? weight * y : y;
}

TEST_P(Norm, MatchesAutograd) {
  const Case& c = GetParam();
  Random random(11);
  const bool biased = c.affine && c.kind == NormKind::kLayerNorm;
  const at::Tensor x = (random.normal({c.tokens, c.features}) * 3.0 + 1.5).to(c.dtype);
  const NormWeights w{c.affine ? random.normal({c.features}, c.dtype) : at::Tensor(),
                      biased ? random.normal({c.features}, c.dtype) : at::Tensor()};
  const at::Tensor grad_y = random.normal({c.tokens, c.features}, c.dtype);

  const at::Tensor rx = leaf(x), rw = c.affine ? leaf(w.weight) : at::Tensor(),
                   rb = biased ? leaf(w.bias) : at::Tensor();
  const at::Tensor ry = reference(c.kind, rx, rw, rb);
  ry.backward(grad_y.to(at::kDouble));

  const double tolerance = tolerance_of(c.dtype);
  NormStats stats;
  expect_close(norm_forward(c.kind, x, w, kEps, &stats), ry, tolerance, "y");
  expect_close(norm_forward(c.kind, x, w, kEps, nullptr), ry, tolerance, "y without stats");
  const NormWeights grads{c.affine ? at::ones_like(w.weight) : at::Tensor(),
                          biased ? at::ones_like(w.bias) : at::Tensor()};
  expect_close(norm_backward(c.kind, grad_y, x, w, stats, grads), rx.grad(), tolerance, "grad x");
  if (c.affine) expect_close(grads.weight, rw.grad() + 1.0, tolerance, "grad weight");
  if (biased) expect_close(grads.bias, rb.grad() + 1.0, tolerance, "grad bias");
}

// A residual connection beside the norm: z = x + residual, y = norm(z), and a gradient that reaches z past y.
TEST_P(Norm, WithResidualMatchesAutograd) {
  const Case& c = GetParam();
  Random random(12);
  const bool biased = c.affine && c.kind == NormKind::kLayerNorm;
  const auto like_x = [&] { return (random.normal({c.tokens, c.features}) * 3.0 + 0.5).to(c.dtype); };
  const at::Tensor x = like_x(), residual = like_x(), grad_y = like_x(), grad_past = like_x();
  const NormWeights w{c.affine ? random.normal({c.features}, c.dtype) : at::Tensor(),
                      biased ? random.normal({c.features}, c.dtype) : at::Tensor()};

  const at::Tensor rx = leaf(x), rz = rx + residual.to(at::kDouble);
  const at::Tensor rw = c.affine ? leaf(w.weight) : at::Tensor(), rb = biased ? leaf(w.bias) : at::Tensor();
  const at::Tensor ry = reference(c.kind, rz, rw, rb);
  ((ry * grad_y.to(at::kDouble)).sum() + (rz * grad_past.to(at::kDouble)).sum()).backward();

  const double tolerance = tolerance_of(c.dtype);
  NormStats stats;
  at::Tensor z = x.clone();
  expect_close(add_norm_forward(c.kind, z, residual, w, kEps, &stats), ry, tolerance, "y");
  EXPECT_TRUE(z.equal(x + residual));
  const at::Tensor past = grad_past.clone();
  expect_close(norm_backward(c.kind, grad_y, z, w, stats, {}, past), rx.grad(), tolerance, "grad x");
  const NormWeights grads{c.affine ? at::ones_like(w.weight) : at::Tensor(),
                          biased ? at::ones_like(w.bias) : at::Tensor()};
  expect_close(norm_backward(c.kind, grad_y, z, w, stats, grads, past), rx.grad(), tolerance,
               "grad x beside those of the weights");
  if (c.affine) expect_close(grads.weight, rw.grad() + 1.0, tolerance, "grad weight");
  if (biased) expect_close(grads.bias, rb.grad() + 1.0, tolerance, "grad bias");
  EXPECT_TRUE(past.equal(grad_past)) << "the gradient past the norm is read only";
}

constexpr auto kLayer = NormKind::kLayerNorm;
constexpr auto kRms = NormKind::kRmsNorm;
INSTANTIATE_TEST_SUITE_P(
    Shapes, Norm,
    testing::Values(Case{kLayer, 1, 7, true, at::kDouble}, Case{kLayer, 9, 33, true, at::kDouble},
                    Case{kLayer, 9, 33, false, at::kDouble}, Case{kRms, 9, 33, true, at::kDouble},
                    Case{kRms, 1, 8, false, at::kDouble}, Case{kLayer, 130, 67, true, at::kFloat},
                    Case{kLayer, 130, 67, false, at::kFloat}, Case{kRms, 130, 67, true, at::kFloat},
                    Case{kRms, 257, 576, true, at::kFloat}, Case{kRms, 5, 3, false, at::kFloat}));

TEST(NormEdge, NoTokens) {
  const NormWeights w{at::ones_like(Random(1).normal({6}, at::kFloat)), {}};
  const at::Tensor x = Random(1).normal({0, 6}, at::kFloat);
  NormStats stats;
  EXPECT_EQ(norm_forward(kRms, x, w, kEps, &stats).sizes(), x.sizes());
  const NormWeights grads{at::ones_like(w.weight), {}};
  EXPECT_EQ(norm_backward(kRms, x, x, w, stats, grads).sizes(), x.sizes());
  EXPECT_TRUE(grads.weight.equal(w.weight));
}

}  // namespace norm_test
}  // namespace sft::ops
