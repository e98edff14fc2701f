#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cpu/cpu.h"
#include "ops/cpu/simd.h"

namespace sft::ops::cpu {
namespace {

SFT_SIMD float row_max(const float* x, int64_t n) {
  float top = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

// x <- exp(x - top); returns the sum.
SFT_SIMD float exp_and_sum(float* x, float top, int64_t n) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    x[i] = exp_simd(x[i] - top);
    sum += x[i];
  }
  return sum;
}

SFT_SIMD void scale_row(float* x, float factor, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

// The loss of one row; x becomes grad_scale * (softmax - onehot) when grad_scale is given, else exp(x - max).
double cross_entropy_row(float* x, int64_t n, int64_t target, const double* grad_scale) {
  constexpr int64_t kBlock = 2048;  // summed in fp32; blocks in double
  const float top = row_max(x, n);
  const double at_target = static_cast<double>(x[target]) - top;
  double total = 0.0;
  for (int64_t begin = 0; begin < n; begin += kBlock)
    total += exp_and_sum(x + begin, top, std::min(kBlock, n - begin));
  if (grad_scale != nullptr) {
    scale_row(x, static_cast<float>(*grad_scale / total), n);
    x[target] -= static_cast<float>(*grad_scale);
  }
  return std::log(total) - at_target;
}

}  // namespace

at::Tensor cross_entropy_inplace(const at::Tensor& logits, const at::Tensor& target_ids,
                                 const double* grad_scale) {
  const int64_t rows = logits.size(0), n = logits.size(1), stride = logits.stride(0);
  at::Tensor losses = at::empty({rows}, logits.options().dtype(at::kDouble));
  float* x = logits.mutable_data_ptr<float>();
  const auto* targets = target_ids.const_data_ptr<int64_t>();
  auto* out = losses.mutable_data_ptr<double>();
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      out[r] = cross_entropy_row(x + r * stride, n, targets[r], grad_scale);
  });
  return losses;
}

}  // namespace sft::ops::cpu
