// linear_forward / linear_backward against LibTorch's autograd in float64.
#include <ATen/ops/linear.h>
#include <ATen/ops/ones_like.h>

#include <vector>

#include "ops/cpu/cpu.h"
#include "unit/ops/reference.h"

namespace sft::ops {
namespace linear_test {

using namespace test;

struct Case {
  int64_t tokens, in, out;
  bool bias, transposed;
  at::ScalarType dtype;
};

LinearWeights weights(const Case& c, Random& random) {
  return {random.normal(c.transposed ? at::IntArrayRef{c.in, c.out} : at::IntArrayRef{c.out, c.in}, c.dtype),
          c.bias ? random.normal({c.out}, c.dtype) : at::Tensor(), c.transposed};
}

class Linear : public testing::TestWithParam<Case> {};

TEST_P(Linear, MatchesAutograd) {
  const Case& c = GetParam();
  Random random(7);
  const at::Tensor x = random.normal({c.tokens, c.in}, c.dtype);
  const LinearWeights w = weights(c, random);
  const at::Tensor grad_y = random.normal({c.tokens, c.out}, c.dtype);

  const at::Tensor rx = leaf(x), rw = leaf(w.weight), rb = c.bias ? leaf(w.bias) : at::Tensor();
  const at::Tensor ry = at::linear(rx, c.transposed ? rw.t() : rw, rb);
  ry.backward(grad_y.to(at::kDouble));

  const double tolerance = tolerance_of(c.dtype);
  expect_close(linear_forward(x, w, ComputeDtype::kFp32), ry, tolerance, "y");
  // Gradients are added to what is there.
  LinearGrads grads{at::ones_like(w.weight), c.bias ? at::ones_like(w.bias) : at::Tensor()};
  expect_close(linear_backward(grad_y, x, w, grads, ComputeDtype::kFp32), rx.grad(), tolerance, "grad x");
  expect_close(grads.weight, rw.grad() + 1.0, tolerance, "grad weight");
  if (c.bias) expect_close(grads.bias, rb.grad() + 1.0, tolerance, "grad bias");
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Linear,
    testing::Values(Case{1, 1, 1, true, false, at::kFloat}, Case{7, 5, 3, true, false, at::kFloat},
                    Case{7, 5, 3, true, true, at::kFloat}, Case{33, 64, 130, false, false, at::kFloat},
                    Case{33, 64, 130, false, true, at::kFloat}, Case{129, 576, 192, true, false, at::kFloat},
                    Case{7, 5, 3, true, false, at::kDouble}, Case{7, 5, 3, true, true, at::kDouble},
                    Case{1, 9, 4, false, false, at::kDouble}));

TEST(LinearEdge, NoTokens) {
  Random random(1);
  const LinearWeights w{random.normal({3, 5}, at::kFloat), random.normal({3}, at::kFloat)};
  const at::Tensor x = random.normal({0, 5}, at::kFloat);
  EXPECT_EQ(linear_forward(x, w, ComputeDtype::kFp32).sizes(), at::IntArrayRef({0, 3}));
  const LinearGrads grads{at::ones_like(w.weight), at::ones_like(w.bias)};
  const at::Tensor grad_x =
      linear_backward(random.normal({0, 3}, at::kFloat), x, w, grads, ComputeDtype::kFp32);
  EXPECT_EQ(grad_x.sizes(), at::IntArrayRef({0, 5}));
  EXPECT_TRUE(grads.weight.equal(at::ones_like(w.weight)));
  EXPECT_TRUE(grads.bias.equal(at::ones_like(w.bias)));
}

TEST(LinearEdge, TakesColumnsOfAWiderTensor) {
  Random random(2);
  const at::Tensor wide = random.normal({9, 20}, at::kFloat);
  const at::Tensor grad_y = wide.narrow(1, 4, 6);
  const at::Tensor x = wide.narrow(1, 10, 5);
  const LinearWeights w{random.normal({6, 5}, at::kFloat), {}};
  const LinearGrads grads{at::zeros_like(w.weight), {}};
  const at::Tensor grad_x = linear_backward(grad_y, x, w, grads, ComputeDtype::kFp32);
  expect_close(grad_x, grad_y.to(at::kDouble).mm(w.weight.to(at::kDouble)), 2e-6, "grad x");
  expect_close(grads.weight, grad_y.to(at::kDouble).t().mm(x.to(at::kDouble)), 2e-6, "grad weight");
}

// More columns and rows than one block of sums has; what is there is added to.
TEST(LinearEdge, BiasGradientOfColumnsOfAWiderTensor) {
  Random random(5);
  const at::Tensor x = random.normal({150, 4}, at::kFloat);
  const LinearWeights w{random.normal({531, 4}, at::kFloat), random.normal({531}, at::kFloat)};
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor grad_y = random.normal({150, 600}, at::kFloat).to(dtype).narrow(1, 7, 531);
    const LinearGrads grads{{}, at::ones_like(w.bias)};
    linear_backward(grad_y, x, w, grads, ComputeDtype::kBf16);
    expect_close(grads.bias, grad_y.to(at::kDouble).sum(0) + 1.0, 2e-6, "grad bias");
  }
}

TEST(LinearEdge, LeavesOutWhatIsNotWanted) {
  Random random(3);
  const LinearWeights w{random.normal({6, 5}, at::kFloat), {}};
  const at::Tensor x = random.normal({4, 5}, at::kFloat), grad_y = random.normal({4, 6}, at::kFloat);
  EXPECT_FALSE(linear_backward(grad_y, x, w, {}, ComputeDtype::kFp32, /*need_grad_x=*/false).defined());
}

// bf16 means: operands rounded to bf16, sums in fp32.
void expect_rounded_operands(const at::Tensor& x, const at::Tensor& grad_y, const LinearWeights& w) {
  const auto rounded = [](const at::Tensor& t) { return t.to(at::kBFloat16).to(at::kDouble); };
  const at::Tensor rx = rounded(x), rg = rounded(grad_y);
  const at::Tensor rw = w.transposed ? rounded(w.weight) : rounded(w.weight).t();  // [in, out]
  const at::Tensor y = linear_forward(x, w, ComputeDtype::kBf16);
  EXPECT_EQ(y.scalar_type(), at::kFloat);
  expect_close(y, rx.mm(rw) + w.bias.to(at::kDouble), 2e-6, "y");
  const LinearGrads grads{at::zeros_like(w.weight), at::zeros_like(w.bias)};
  expect_close(linear_backward(grad_y, x, w, grads, ComputeDtype::kBf16), rg.mm(rw.t()), 2e-6, "grad x");
  expect_close(grads.weight, w.transposed ? rx.t().mm(rg) : rg.t().mm(rx), 2e-6, "grad weight");
  expect_close(grads.bias, grad_y.to(at::kDouble).sum(0), 2e-6, "grad bias");  // no product: not rounded
}

TEST(LinearBf16, RoundsOperandsAndSumsInFp32) {
  Random random(4);
  const at::Tensor x = random.normal({65, 300}, at::kFloat), grad_y = random.normal({65, 70}, at::kFloat);
  const LinearWeights w{random.normal({70, 300}, at::kFloat), random.normal({70}, at::kFloat)};
  expect_rounded_operands(x, grad_y, w);
  const at::Tensor y = linear_forward(x, w, ComputeDtype::kBf16);
  EXPECT_TRUE(linear_forward(x, w, ComputeDtype::kBf16, /*round_result=*/true)
                  .equal(operand(y, ComputeDtype::kBf16)));
  // Weights that the engine already holds in bf16 give the same.
  const LinearWeights copies{w.weight.to(at::kBFloat16), w.bias};
  EXPECT_TRUE(linear_forward(x, copies, ComputeDtype::kBf16).equal(y));
}

class LinearBf16Shapes : public testing::TestWithParam<Case> {};

TEST_P(LinearBf16Shapes, RoundsOperandsAndSumsInFp32) {
  const Case& c = GetParam();
  Random random(6);
  const at::Tensor x = random.normal({c.tokens, c.in}, c.dtype);
  const at::Tensor grad_y = random.normal({c.tokens, c.out}, c.dtype);
  expect_rounded_operands(x, grad_y, weights(c, random));
}

// Odd sizes in both layouts.
std::vector<Case> bf16_cases() {
  std::vector<Case> all{{65, 300, 70, true, true, at::kFloat}};
  for (const bool transposed : {false, true}) {
    for (const int64_t tokens : {1, 3, 65}) {
      for (const int64_t in : {48, 100, 129}) {
        for (const int64_t out : {48, 100, 129})
          all.push_back({tokens, in, out, true, transposed, at::kFloat});
      }
    }
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Shapes, LinearBf16Shapes, testing::ValuesIn(bf16_cases()));

}  // namespace linear_test
}  // namespace sft::ops
