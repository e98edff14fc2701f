// Activations, plain and gated, against LibTorch's autograd of their defining formulas in float64.
#include <ATen/ops/erf.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tanh.h>

#include <cmath>

#include "ops/cpu/cpu.h"
#include "unit/ops/reference.h"

namespace sft::ops {
namespace activation_test {

using namespace test;

at::Tensor formula(Activation kind, const at::Tensor& x) {
  switch (kind) {
    case Activation::kRelu:
      return at::relu(x);
    case Activation::kGelu:
      return 0.5 * x * (1.0 + at::erf(x * M_SQRT1_2));
    case Activation::kGeluTanh:
      return 0.5 * x * (1.0 + at::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x.pow(3))));
    case Activation::kSilu:
      return x * at::sigmoid(x);
  }
  return {};
}

class Activations : public testing::TestWithParam<std::tuple<Activation, at::ScalarType, int64_t>> {};

TEST_P(Activations, MatchAutograd) {
  const auto [kind, dtype, tokens] = GetParam();
  Random random(3);
  const at::Tensor x = (random.normal({tokens, 37}) * 3.0).to(dtype),
                   grad_y = random.normal({tokens, 37}, dtype);
  const at::Tensor rx = leaf(x), ry = formula(kind, rx);
  ry.backward(grad_y.to(at::kDouble));
  expect_close(activation_forward(kind, x), ry, tolerance_of(dtype), "y");
  expect_close(activation_backward(kind, grad_y, x), rx.grad(), tolerance_of(dtype), "grad x");
}

TEST_P(Activations, GatedMatchAutograd) {
  const auto [kind, dtype, tokens] = GetParam();
  Random random(5);
  const at::Tensor x = (random.normal({tokens, 74}) * 3.0).to(dtype),
                   grad_y = random.normal({tokens, 37}, dtype);
  const at::Tensor rx = leaf(x), ry = formula(kind, rx.narrow(1, 0, 37)) * rx.narrow(1, 37, 37);
  ry.backward(grad_y.to(at::kDouble));
  expect_close(gated_activation_forward(kind, x), ry, tolerance_of(dtype), "y");
  expect_close(gated_activation_backward(kind, grad_y, x), rx.grad(), tolerance_of(dtype), "grad x");
}

INSTANTIATE_TEST_SUITE_P(All, Activations,
                         testing::Combine(testing::Values(Activation::kRelu, Activation::kGelu,
                                                          Activation::kGeluTanh, Activation::kSilu),
                                          testing::Values(at::kFloat, at::kDouble),
                                          testing::Values(0, 1, 41)));

// gate and up as bf16 values: fp32 arithmetic, results rounded.
TEST(ActivationsBf16, SwiGluTakesRoundedInput) {
  for (const int64_t tokens : {0, 1, 41}) {
    Random random(6);
    const at::Tensor x = (random.normal({tokens, 74}) * 3.0).to(at::kBFloat16);
    const at::Tensor grad_y = random.normal({tokens, 37}, at::kFloat);
    const at::Tensor rx = leaf(x),
                     ry = formula(Activation::kSilu, rx.narrow(1, 0, 37)) * rx.narrow(1, 37, 37);
    ry.backward(grad_y.to(at::kDouble));
    const auto expect_rounded = [](const at::Tensor& actual, const at::Tensor& expected, const char* what) {
      EXPECT_EQ(actual.scalar_type(), at::kBFloat16) << what;
      // A value between two of bf16 may fall to either side.
      expect_close(actual, expected.to(at::kBFloat16).to(at::kDouble), 5e-4, what);
    };
    expect_rounded(cpu::swiglu_forward(x), ry, "y");
    expect_rounded(cpu::swiglu_backward(grad_y, x), rx.grad(), "grad x");
  }
}

// Far out the functions are 0 and x, never NaN.
TEST(ActivationsFarOut, StayFinite) {
  const at::Tensor x = (Random(1).normal({4, 8}, at::kFloat)).sign() * 200.0;
  const at::Tensor both = x.repeat({1, 2});
  for (const Activation kind :
       {Activation::kRelu, Activation::kGelu, Activation::kGeluTanh, Activation::kSilu}) {
    expect_close(activation_forward(kind, x), at::relu(x), 1e-6, "y");
    EXPECT_TRUE(activation_backward(kind, x, x).isfinite().all().item<bool>());
    EXPECT_TRUE(gated_activation_forward(kind, both).isfinite().all().item<bool>());
    EXPECT_TRUE(gated_activation_backward(kind, x, both).isfinite().all().item<bool>());
  }
}

}  // namespace activation_test
}  // namespace sft::ops
