// Dropout masks depend on the row, never on its neighbours; their statistics are those of independent coins.
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>

#include <cmath>

#include "sft/base/rng.h"
#include "unit/ops/reference.h"

namespace sft::ops {
namespace dropout_test {

using namespace test;

struct Site {
  std::vector<int64_t> cu_seqlens;
  std::vector<DropoutRow> rows;
  double probability = 0.25;
  uint64_t seed = 77;
  int32_t layer = 2, site = 3;
  DropoutSite get() const { return {probability, seed, layer, site, cu_seqlens, rows}; }
};

at::Tensor ones(int64_t tokens, int64_t width) {
  return at::ones({tokens, width}, at::TensorOptions(at::kFloat));
}

TEST(Dropout, SameMaskHoweverRowsAreGrouped) {
  const Site together{{0, 5, 8, 15}, {{1, 40}, {1, 41}, {1, 42}}};
  const at::Tensor packed = dropout_apply(ones(15, 7), together.get());
  for (std::size_t r = 0; r < 3; ++r) {
    const int64_t begin = together.cu_seqlens[r], length = together.cu_seqlens[r + 1] - begin;
    const Site alone{{0, length}, {together.rows[r]}};
    EXPECT_TRUE(dropout_apply(ones(length, 7), alone.get()).equal(packed.narrow(0, begin, length))) << r;
    EXPECT_TRUE(
        dropout_mask(alone.get(), 0, length * 7).view({length, 7}).equal(packed.narrow(0, begin, length)))
        << r;
  }
  const Site swapped{{0, 7, 12}, {{1, 42}, {1, 40}}};
  const at::Tensor other = dropout_apply(ones(12, 7), swapped.get());
  EXPECT_TRUE(other.narrow(0, 7, 5).equal(packed.narrow(0, 0, 5)));
}

// Large enough for several threads.
TEST(Dropout, ElementsAreThoseOfTheGenerator) {
  const Site site{{0, 300}, {{3, 9}}};
  const at::Tensor mask = dropout_mask(site.get(), 0, 300 * 257);
  const auto* values = mask.const_data_ptr<float>();
  const auto mixed = base::philox4x32({3, 0, 2, 3}, {77, 0});
  for (uint32_t e = 0; e < 300 * 257; ++e) {
    const auto random = base::philox4x32({e / 4, 0, 9, 0}, {mixed[0], mixed[1]});
    const float expected = base::uniform01(random[e % 4]) >= 0.25F ? 1.0F / 0.75F : 0.0F;
    ASSERT_EQ(values[e], expected) << e;
  }
}

TEST(Dropout, KeepsTheRightShareAndTheMean) {
  const Site site{{0, 1000}, {{0, 0}}};
  const at::Tensor mask = dropout_mask(site.get(), 0, 1'000'000);
  const double kept = mask.gt(0).to(at::kDouble).mean().item<double>();
  const double sigma = std::sqrt(0.25 * 0.75 / 1e6);
  EXPECT_NEAR(kept, 0.75, 5 * sigma);
  EXPECT_NEAR(mask.to(at::kDouble).mean().item<double>(), 1.0, 5 * sigma / 0.75);
}

TEST(Dropout, EveryCoordinateChangesTheMask) {
  const Site base{{0, 100}, {{1, 1}}};
  const at::Tensor mask = dropout_mask(base.get(), 0, 1000);
  std::vector<Site> others(7, base);
  others[0].seed = 78;
  others[1].layer = 3;
  others[2].site = 2;
  others[3].rows = {{2, 1}};
  others[4].rows = {{1, 2}};
  others[5].seed = 77 | (uint64_t{1} << 40);
  others[6].rows = {{1, 1, 1}};
  for (const Site& other : others) {
    // Independent masks agree in p^2 + (1 - p)^2 = 0.625 of the elements.
    const double same = mask.eq(dropout_mask(other.get(), 0, 1000)).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(same, 0.625, 5 * std::sqrt(0.625 * 0.375 / 1000));
  }
}

TEST(Dropout, BackwardIsTheSameMask) {
  const Site site{{0, 4, 9}, {{1, 5}, {1, 6}}};
  const at::Tensor x = Random(1).normal({9, 33}), grad_y = Random(2).normal({9, 33});
  const at::Tensor mask = dropout_apply(ones(9, 33), site.get()).to(at::kDouble);
  EXPECT_TRUE(dropout_apply(x, site.get()).equal(x * mask));
  EXPECT_TRUE(dropout_apply(grad_y, site.get()).equal(grad_y * mask));
}

// bf16 has no 1 / 0.7: the mask stays fp32, whatever it is put on.
TEST(Dropout, ScalesBf16ByTheExactFactor) {
  const Site site{{0, 40}, {{1, 4}}, 0.3};
  const at::Tensor x = Random(8).normal({40, 7}, at::kFloat).to(at::kBFloat16);
  EXPECT_TRUE(dropout_apply(x, site.get()).equal(x.to(at::kFloat) * dropout_apply(ones(40, 7), site.get())));
}

TEST(Dropout, ProbabilityZeroAndNoTokens) {
  Site site{{0, 4}, {{1, 5}}};
  site.probability = 0.0;
  const at::Tensor x = Random(1).normal({4, 3}, at::kFloat);
  EXPECT_TRUE(dropout_apply(x, site.get()).equal(x));
  const Site empty{{0}, {}};
  EXPECT_EQ(dropout_apply(ones(0, 3), empty.get()).numel(), 0);
}

}  // namespace dropout_test
}  // namespace sft::ops
