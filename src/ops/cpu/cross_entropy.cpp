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

SFT_SIMD float row_sum(const float* x, int64_t n) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
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

// The same; weighted becomes the sum of (x - top) exp(x - top).
SFT_SIMD float exp_and_sums(float* x, float top, int64_t n, float& weighted) {
  float sum = 0.0F, product_sum = 0.0F;
#pragma omp simd reduction(+ : sum, product_sum)
  for (int64_t i = 0; i < n; ++i) {
    const float below_top = x[i] - top;
    x[i] = exp_simd(below_top);
    sum += x[i];
    product_sum += x[i] * below_top;
  }
  weighted = product_sum;
  return sum;
}

// x <- factor * x - shift
SFT_SIMD void scale_row(float* x, float factor, float shift, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] = x[i] * factor - shift;
}

// y <- the same, rounded to bf16
SFT_SIMD void scale_row_to_bf16(const float* x, float factor, float shift, uint16_t* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = bf16_simd(x[i] * factor - shift);
}

constexpr int64_t kBlock = 2048;  // summed in fp32; blocks in double

double mean_below_top(const float* x, float top, int64_t n) {
  double sum = 0.0;
  for (int64_t begin = 0; begin < n; begin += kBlock) sum += row_sum(x + begin, std::min(kBlock, n - begin));
  return sum / static_cast<double>(n) - top;
}

// One row of generic::cross_entropy_inplace; without grad_scale, or with grad_bf16, x becomes exp(x - max).
void cross_entropy_row(float* x, int64_t n, int64_t target, const LossOptions& loss, const double* grad_scale,
                       uint16_t* grad_bf16, double* out) {
  const float top_before = row_max(x, target), top_from = row_max(x + target, n - target);
  const float top = std::max(top_before, top_from);
  const bool right = x[target] >= top_from && x[target] > top_before;
  const double at_target = static_cast<double>(x[target]) - top, smoothing = loss.label_smoothing;
  const double mean = smoothing > 0 ? mean_below_top(x, top, n) : 0.0;
  double total = 0.0, weighted = 0.0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = std::min(kBlock, n - begin);
    if (loss.token_metrics) {
      float part = 0.0F;
      total += exp_and_sums(x + begin, top, count, part);
      weighted += part;
    } else {
      total += exp_and_sum(x + begin, top, count);
    }
  }
  const double log_total = std::log(total), nll = log_total - at_target;
  const double weight = loss.kind == LossKind::kDft ? std::exp(-nll) : 1.0;
  out[0] = (1.0 - smoothing) * weight * nll + smoothing * (log_total - mean);
  if (loss.token_metrics) {
    out[1] = right ? 1.0 : 0.0;
    out[2] = log_total - weighted / total;
  }
  if (grad_scale == nullptr) return;
  const double scale = weight * *grad_scale;
  const auto factor = static_cast<float>(scale / total),
             shift = static_cast<float>(scale * smoothing / static_cast<double>(n)),
             of_target = static_cast<float>(scale * (1.0 - smoothing));
  if (grad_bf16 != nullptr) {
    scale_row_to_bf16(x, factor, shift, grad_bf16, n);
    grad_bf16[target] = bf16_simd(x[target] * factor - shift - of_target);
  } else {
    scale_row(x, factor, shift, n);
    x[target] -= of_target;
  }
}

}  // namespace

at::Tensor cross_entropy_inplace(const at::Tensor& logits, const at::Tensor& target_ids,
                                 const LossOptions& loss, const double* grad_scale,
                                 const at::Tensor& grad_bf16) {
  const int64_t rows = logits.size(0), n = logits.size(1), stride = logits.stride(0);
  const int64_t columns = loss.token_metrics ? 3 : 1;
  at::Tensor sums = at::empty({rows, columns}, logits.options().dtype(at::kDouble));
  float* x = logits.mutable_data_ptr<float>();
  const auto* targets = target_ids.const_data_ptr<int64_t>();
  auto* out = sums.mutable_data_ptr<double>();
  auto* grads = grad_bf16.defined() ? static_cast<uint16_t*>(grad_bf16.mutable_data_ptr()) : nullptr;
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      cross_entropy_row(x + r * stride, n, targets[r], loss, grad_scale, grads ? grads + r * n : nullptr,
                        out + r * columns);
  });
  return sums;
}

}  // namespace sft::ops::cpu
