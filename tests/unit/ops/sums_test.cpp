// Long sums of squares: exact enough, and the same for every thread count.
#include <ATen/Parallel.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include "unit/ops/reference.h"

namespace sft::ops {
namespace sums_test {

using namespace test;

TEST(SumOfSquares, LongSumsKeepTheirDigits) {
  // 2^25 times 0.1f^2: a running fp32 sum would stop growing long before.
  const at::Tensor flat = at::full({1 << 25}, 0.1F, at::TensorOptions(at::kFloat));
  const double expected = static_cast<double>(0.1F) * static_cast<double>(0.1F) * (1 << 25);
  EXPECT_NEAR(sum_of_squares(flat), expected, expected * 1e-12);
}

TEST(SumOfSquares, AnySizeShapeAndType) {
  Random random(1);
  for (const int64_t size : {0, 1, 7, 8, 9, 16383, 16384, 16385, 100003}) {
    const at::Tensor t = random.normal({size}, at::kFloat);
    const double expected = t.to(at::kDouble).square().sum().item<double>();
    EXPECT_NEAR(sum_of_squares(t), expected, expected * 1e-13) << size;
    EXPECT_NEAR(sum_of_squares(t.to(at::kDouble)), expected, expected * 1e-13) << size;
  }
  const at::Tensor matrix = random.normal({5, 6}, at::kFloat);
  EXPECT_EQ(sum_of_squares(matrix.t()), sum_of_squares(matrix.t().contiguous()));
}

TEST(SumOfSquares, SameBitsForEveryThreadCount) {
  const at::Tensor t = Random(2).normal({1'000'003}, at::kFloat);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const double one = sum_of_squares(t);
  at::set_num_threads(3);
  const double three = sum_of_squares(t);
  at::set_num_threads(threads);
  EXPECT_EQ(one, three);
}

TEST(SumOfSquares, NonFiniteShows) {
  at::Tensor t = at::zeros({20000}, at::TensorOptions(at::kFloat));
  t[12345] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(sum_of_squares(t)));
}

}  // namespace sums_test
}  // namespace sft::ops
