#include "parallel/bf16_ops.h"

#include <c10/util/BFloat16.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

namespace sft::parallel {
namespace bf16_ops_test {

c10::BFloat16 from_bits(int bits) {
  return {static_cast<uint16_t>(bits), c10::BFloat16::from_bits()};
}

// Every bf16 against a few partners; LibTorch's conversion is the reference.
TEST(Bf16Ops, SumIsTheFp32SumRoundedToNearestEven) {
  for (const float partner :
       {0.0F, 1.0F, -3.140625F, 1e-38F, 65280.0F, std::numeric_limits<float>::infinity()}) {
    const c10::BFloat16 other(partner);
    for (int bits = 0; bits < (1 << 16); ++bits) {
      auto result = static_cast<uint16_t>(bits);
      combine_bf16(&other.x, &result, 1, ReduceOp::kSum);
      const float exact = static_cast<float>(other) + static_cast<float>(from_bits(bits));
      if (std::isnan(exact)) {
        ASSERT_TRUE(std::isnan(static_cast<float>(from_bits(result)))) << bits << " + " << partner;
      } else {
        ASSERT_EQ(result, c10::BFloat16(exact).x) << bits << " + " << partner;
      }
    }
  }
}

TEST(Bf16Ops, MinAndMax) {
  using Three = std::array<c10::BFloat16, 3>;
  const Three in{1.0F, -2.0F, 0.5F};
  Three low{3.0F, -4.0F, 0.5F};
  Three high = low;
  combine_bf16(&in[0].x, &low[0].x, 3, ReduceOp::kMin);
  combine_bf16(&in[0].x, &high[0].x, 3, ReduceOp::kMax);
  EXPECT_EQ(low, (Three{1.0F, -4.0F, 0.5F}));
  EXPECT_EQ(high, (Three{3.0F, -2.0F, 0.5F}));
}

}  // namespace bf16_ops_test
}  // namespace sft::parallel
