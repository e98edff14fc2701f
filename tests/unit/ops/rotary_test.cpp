// Rotary positions against transformers' formula, x cos + rotate_half(x) sin.
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/tensor.h>

#include "unit/ops/reference.h"

namespace sft::ops {
namespace rotary_test {

using namespace test;

struct Tables {
  at::Tensor cos, sin;
};
Tables tables(int64_t tokens, int64_t pairs) {
  const at::Tensor angle =
      at::arange(tokens, at::kDouble).unsqueeze(1) * at::pow(0.7, at::arange(pairs, at::kDouble));
  return {angle.cos().to(at::kFloat), angle.sin().to(at::kFloat)};
}

at::Tensor reference(const at::Tensor& x, const Tables& t) {
  const int64_t pairs = t.cos.size(1);
  const at::Tensor cos = at::cat({t.cos, t.cos}, 1).unsqueeze(1).to(at::kDouble);
  const at::Tensor sin = at::cat({t.sin, t.sin}, 1).unsqueeze(1).to(at::kDouble);
  const at::Tensor rotate_half = at::cat({-x.narrow(2, pairs, pairs), x.narrow(2, 0, pairs)}, 2);
  return x * cos + rotate_half * sin;
}

struct Case {
  at::ScalarType dtype;
  int64_t tokens;
};

class Rotary : public testing::TestWithParam<Case> {};

TEST_P(Rotary, MatchesTheFormulaAndItsGradient) {
  const auto [dtype, tokens] = GetParam();
  Random random(9);
  const Tables t = tables(tokens, 5);
  // A view into a wider tensor, as q and k are.
  const at::Tensor wide = random.normal({tokens, 7, 10}, dtype);
  at::Tensor x = wide.narrow(1, 2, 3);
  const at::Tensor before = wide.clone();
  const at::Tensor rx = leaf(x), grad_y = random.normal({tokens, 3, 10}, dtype);
  reference(rx, t).backward(grad_y.to(at::kDouble));

  rotary_inplace(x, t.cos, t.sin, /*inverse=*/false);
  expect_close(x, reference(rx, t), tolerance_of(dtype), "rotated");
  EXPECT_TRUE(wide.narrow(1, 0, 2).equal(before.narrow(1, 0, 2))) << "neighbouring heads are not touched";
  EXPECT_TRUE(wide.narrow(1, 5, 2).equal(before.narrow(1, 5, 2)));
  at::Tensor grad = grad_y.clone();
  rotary_inplace(grad, t.cos, t.sin, /*inverse=*/true);
  expect_close(grad, rx.grad(), tolerance_of(dtype), "gradient");
}

TEST_P(Rotary, LeavesFeaturesBehindTheRotatedPairsAlone) {
  const auto [dtype, tokens] = GetParam();
  Random random(10);
  const Tables t = tables(tokens, 2);
  at::Tensor x = random.normal({tokens, 2, 10}, dtype);
  const at::Tensor before = x.clone();
  rotary_inplace(x, t.cos, t.sin, /*inverse=*/false);
  EXPECT_TRUE(x.narrow(2, 4, 6).equal(before.narrow(2, 4, 6)));
  expect_close(x.narrow(2, 0, 4), reference(before.narrow(2, 0, 4).to(at::kDouble), t),
               tolerance_of(dtype), "head");
}

// GPT-J pairs neighbours: the same as halves of the features in another order.
TEST_P(Rotary, InterleavedPairs) {
  const auto [dtype, tokens] = GetParam();
  Random random(11);
  const Tables t = tables(tokens, 3);
  at::Tensor x = random.normal({tokens, 2, 8}, dtype);
  const at::Tensor before = x.to(at::kDouble, /*non_blocking=*/false, /*copy=*/true);
  const at::Tensor order = at::tensor({0, 2, 4, 1, 3, 5}, at::kLong);
  rotary_inplace(x, t.cos, t.sin, /*inverse=*/false, RotaryLayout::kInterleaved);
  expect_close(x.index_select(2, order), reference(before.index_select(2, order), t),
               tolerance_of(dtype), "rotated");
  EXPECT_TRUE(x.narrow(2, 6, 2).to(at::kDouble).equal(before.narrow(2, 6, 2)));
  rotary_inplace(x, t.cos, t.sin, /*inverse=*/true, RotaryLayout::kInterleaved);
  expect_close(x, before, 1e-6, "and back");  // cos and sin are rounded to fp32
}

// With 40 tokens several threads share the work.
INSTANTIATE_TEST_SUITE_P(Cases, Rotary,
                         testing::Values(Case{at::kFloat, 13}, Case{at::kFloat, 40}, Case{at::kDouble, 13},
                                         Case{at::kDouble, 40}));

TEST(RotaryEdge, NoTokens) {
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    const Tables t = tables(0, 2);
    at::Tensor x = Random(1).normal({0, 2, 4}, dtype);
    rotary_inplace(x, t.cos, t.sin, false);
    EXPECT_EQ(x.numel(), 0);
  }
}

}  // namespace rotary_test
}  // namespace sft::ops
