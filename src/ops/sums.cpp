#include <ATen/Parallel.h>

#include <array>
#include <vector>

#include "sft/base/checked.h"
#include "sft/ops/ops.h"

namespace sft::ops {
namespace {

constexpr int64_t kSumBlock = 1 << 14;  // elements

// Eight running sums keep the additions independent; their order is fixed.
double block_sum_of_squares(const float* values, int64_t count) {
  constexpr int64_t kLanes = 8;
  std::array<double, kLanes> sums{};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double value = values[i + lane];
      sums[static_cast<std::size_t>(lane)] += value * value;
    }
  }
  double total = 0.0;
  for (; i < count; ++i) total += static_cast<double>(values[i]) * values[i];
  for (const double sum : sums) total += sum;
  return total;
}

double sum_of_squares_fp32_cpu(const at::Tensor& flat) {
  const int64_t count = flat.numel();
  const float* values = flat.const_data_ptr<float>();
  std::vector<double> partial(static_cast<std::size_t>(base::ceil_div(count, kSumBlock)));
  at::parallel_for(0, static_cast<int64_t>(partial.size()), 4, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      partial[static_cast<std::size_t>(b)] =
          block_sum_of_squares(values + b * kSumBlock, std::min(kSumBlock, count - b * kSumBlock));
    }
  });
  double total = 0.0;
  for (const double sum : partial) total += sum;
  return total;
}

}  // namespace

double sum_of_squares(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.contiguous().view(-1);
  if (flat.is_cpu() && flat.scalar_type() == at::kFloat) return sum_of_squares_fp32_cpu(flat);
  constexpr int64_t kPiece = 1 << 22;  // elements converted to double at once
  double total = 0.0;
  for (int64_t begin = 0; begin < flat.numel(); begin += kPiece) {
    const at::Tensor piece = flat.narrow(0, begin, std::min(kPiece, flat.numel() - begin)).to(at::kDouble);
    total += piece.square().sum().item<double>();
  }
  return total;
}

}  // namespace sft::ops
