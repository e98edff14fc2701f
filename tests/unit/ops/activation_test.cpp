// Activations, plain and gated, against LibTorch's autograd of their defining formulas in float64.
#include <ATen/ops/erf.h>
#include <ATen/ops/erfc.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tanh.h>

#include <cmath>

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

class ActivationsBf16 : public testing::TestWithParam<std::tuple<Activation, int64_t>> {};

// Inputs as bf16 values: fp32 arithmetic, results rounded.
TEST_P(ActivationsBf16, TakeRoundedInput) {
  const auto [kind, tokens] = GetParam();
  Random random(6);
  const at::Tensor both = (random.normal({tokens, 74}) * 3.0).to(at::kBFloat16),
                   x = both.narrow(1, 0, 37).contiguous();
  const at::Tensor grad_y = random.normal({tokens, 37}, at::kFloat);
  const auto expect_rounded = [](const at::Tensor& actual, const at::Tensor& expected, const char* what) {
    EXPECT_EQ(actual.scalar_type(), at::kBFloat16) << what;
    // A value between two of bf16 may fall to either side.
    expect_close(actual, expected.to(at::kBFloat16).to(at::kDouble), 5e-4, what);
  };
  const at::Tensor rx = leaf(x), ry = formula(kind, rx);
  ry.backward(grad_y.to(at::kDouble));
  expect_rounded(activation_forward(kind, x), ry, "y");
  expect_rounded(activation_backward(kind, grad_y, x), rx.grad(), "grad x");

  const at::Tensor rboth = leaf(both),
                   rgated = formula(kind, rboth.narrow(1, 0, 37)) * rboth.narrow(1, 37, 37);
  rgated.backward(grad_y.to(at::kDouble));
  expect_rounded(gated_activation_forward(kind, both), rgated, "gated y");
  expect_rounded(gated_activation_backward(kind, grad_y, both), rboth.grad(), "gated grad x");
}

INSTANTIATE_TEST_SUITE_P(All, ActivationsBf16,
                         testing::Combine(testing::Values(Activation::kRelu, Activation::kGelu,
                                                          Activation::kGeluTanh, Activation::kSilu),
                                          testing::Values(0, 1, 41)));

// Place by place, from one tail to the other: the error is small beside the value itself.
TEST(ActivationsAtEachPlace, AreAccurate) {
  const at::Tensor x = at::linspace(-12.0, 12.0, 4801, at::kFloat).view({1, -1});
  const at::Tensor ones = at::ones_like(x);
  for (const Activation kind :
       {Activation::kRelu, Activation::kGelu, Activation::kGeluTanh, Activation::kSilu}) {
    const at::Tensor rx = leaf(x);
    const at::Tensor ry =
        kind == Activation::kGelu ? 0.5 * rx * at::erfc(-rx * M_SQRT1_2) : formula(kind, rx);
    ry.sum().backward();
    const auto expect_near = [&](const at::Tensor& actual, const at::Tensor& expected, double relative) {
      const at::Tensor error = (actual.to(at::kDouble) - expected).abs();
      EXPECT_TRUE((error <= relative * expected.abs() + 1e-9).all().item<bool>())
          << static_cast<int>(kind) << ": " << (error / (expected.abs() + 1e-9)).max().item<double>();
    };
    expect_near(activation_forward(kind, x), ry.detach(), 3e-6);
    // Derivatives cross zero: beside their largest value.
    EXPECT_LE((activation_backward(kind, ones, x).to(at::kDouble) - rx.grad()).abs().max().item<double>(),
              1e-6);
  }
}

TEST(ActivationsFarOut, NaNStaysNaN) {
  const at::Tensor x = at::full({2, 20}, std::nanf(""), at::kFloat), grad = at::ones({2, 10}, at::kFloat);
  for (const Activation kind :
       {Activation::kRelu, Activation::kGelu, Activation::kGeluTanh, Activation::kSilu}) {
    EXPECT_TRUE(activation_forward(kind, x).isnan().all().item<bool>());
    EXPECT_TRUE(gated_activation_forward(kind, x).isnan().all().item<bool>());
    EXPECT_TRUE(gated_activation_backward(kind, grad, x).isnan().all().item<bool>());
  }
}

// Far out the functions are 0 and x, never NaN.
TEST(ActivationsFarOut, StayFinite) {
  for (const double far : {30.0, 200.0, 1e15}) {
    const at::Tensor x = Random(1).normal({4, 8}, at::kFloat).sign() * far;
    const at::Tensor both = x.repeat({1, 2}), ones = at::ones_like(x);
    for (const Activation kind :
         {Activation::kRelu, Activation::kGelu, Activation::kGeluTanh, Activation::kSilu}) {
      expect_close(activation_forward(kind, x), at::relu(x), 1e-6, "y");
      expect_close(activation_backward(kind, ones, x), x.gt(0).to(at::kFloat), 1e-6, "slope");
      EXPECT_TRUE(gated_activation_forward(kind, both).isfinite().all().item<bool>());
      EXPECT_TRUE(gated_activation_backward(kind, ones, both).isfinite().all().item<bool>());
    }
  }
}

}  // namespace activation_test
}  // namespace sft::ops
