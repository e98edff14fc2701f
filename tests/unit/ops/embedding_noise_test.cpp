// NEFTune's noise: as large and as spread as the formula says, and a row's own.
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "unit/ops/reference.h"

namespace sft::ops {
namespace embedding_noise_test {

using namespace test;

struct Rows {
  std::vector<int64_t> cu_seqlens;
  std::vector<DropoutRow> rows;
  uint64_t seed = 77;
  // Noise on zeros, [tokens, width].
  at::Tensor noise(int64_t width, double alpha = 5.0) const {
    const DropoutSite site{0.0, seed, -1, 4, cu_seqlens, rows};
    return embedding_noise_apply(at::zeros({cu_seqlens.back(), width}, at::kFloat), alpha, site);
  }
};

TEST(EmbeddingNoise, DependsOnTheRowAlone) {
  const Rows together{{0, 5, 8, 15}, {{1, 40}, {1, 41}, {1, 42}}};
  const at::Tensor packed = together.noise(7);
  for (std::size_t r = 0; r < 3; ++r) {
    const int64_t begin = together.cu_seqlens[r], length = together.cu_seqlens[r + 1] - begin;
    const at::Tensor part = packed.narrow(0, begin, length);
    EXPECT_TRUE((Rows{{0, length}, {together.rows[r]}}.noise(7).equal(part))) << r;
    const DropoutRow row = together.rows[r];
    EXPECT_FALSE((Rows{{0, length}, {{row.epoch + 1, row.position}}}.noise(7).equal(part))) << "epoch";
    EXPECT_FALSE((Rows{{0, length}, {{row.epoch, row.position + 9}}}.noise(7).equal(part))) << "position";
    EXPECT_FALSE((Rows{{0, length}, {row}, 78}.noise(7).equal(part))) << "seed";
  }
}

// Kolmogorov-Smirnov against the uniform distribution on [-a, a): the distance of n draws stays below
// 1.95 / sqrt(n) in all but 1 of 1000 samples.
TEST(EmbeddingNoise, IsUniformUpToAlphaOverRootOfTheRowsElements) {
  for (const int64_t length : {50, 1000}) {
    constexpr int64_t kWidth = 200;
    const double a = 5.0 / std::sqrt(static_cast<double>(length * kWidth));
    const at::Tensor draws =
        std::get<0>(Rows{{0, length}, {{0, 3}}}.noise(kWidth).flatten().to(at::kDouble).sort());
    const auto n = static_cast<double>(draws.numel());
    const double* values = draws.const_data_ptr<double>();
    double distance = 0;
    for (int64_t i = 0; i < draws.numel(); ++i)
      distance = std::max(distance, std::abs((values[i] + a) / (2 * a) - (static_cast<double>(i) + 0.5) / n));
    EXPECT_LT(distance, 1.95 / std::sqrt(n)) << length;
    EXPECT_GE(values[0], -a);
    EXPECT_LE(values[draws.numel() - 1], a);
  }
}

TEST(EmbeddingNoise, NeighboursAreUncorrelated) {
  const at::Tensor x = Rows{{0, 1000, 2000}, {{0, 3}, {0, 4}}}.noise(200).to(at::kDouble).flatten();
  const int64_t half = x.numel() / 2;
  const double variance = x.square().mean().item<double>();
  for (const int64_t lag : {int64_t{1}, int64_t{2}, int64_t{4}, int64_t{200}, half}) {
    const at::Tensor product = x.narrow(0, 0, half) * x.narrow(0, lag, half);
    EXPECT_LT(std::abs(product.mean().item<double>()), 4 * variance / std::sqrt(static_cast<double>(half)))
        << lag;
  }
}

TEST(EmbeddingNoise, ZeroAlphaIsNoNoise) {
  const Rows rows{{0, 5}, {{1, 40}}};
  EXPECT_TRUE(rows.noise(7, 0.0).equal(at::zeros({5, 7}, at::kFloat)));
}

}  // namespace embedding_noise_test
}  // namespace sft::ops
