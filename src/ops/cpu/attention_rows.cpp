#include "ops/cpu/attention_rows.h"

#include <cmath>
#include <limits>

#include "ops/cpu/simd.h"

namespace sft::ops::cpu {

SFT_SIMD float softmax_row(float* scores, float scale, VisibleKeys visible, int64_t padded) {
  const int64_t begin = visible.begin, end = visible.end;
  float top = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : top)
  for (int64_t j = begin; j < end; ++j) top = scores[j] > top ? scores[j] : top;
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = begin; j < end; ++j) {
    scores[j] = exp_simd(scale * (scores[j] - top));
    sum += scores[j];
  }
  const float factor = 1.0F / sum;
#pragma omp simd
  for (int64_t j = begin; j < end; ++j) scores[j] *= factor;
  for (int64_t j = 0; j < begin; ++j) scores[j] = 0.0F;
  for (int64_t j = end; j < padded; ++j) scores[j] = 0.0F;
  return scale * top + std::log(sum);
}

SFT_SIMD void softmax_backward_row(float* scores, float* grad, float scale, float logsumexp, float delta,
                                   VisibleKeys visible, int64_t padded) {
  const int64_t begin = visible.begin, end = visible.end;
#pragma omp simd
  for (int64_t j = begin; j < end; ++j) {
    scores[j] = exp_simd(scale * scores[j] - logsumexp);
    grad[j] = scale * scores[j] * (grad[j] - delta);
  }
  for (int64_t j = 0; j < begin; ++j) scores[j] = grad[j] = 0.0F;
  for (int64_t j = end; j < padded; ++j) scores[j] = grad[j] = 0.0F;
}

SFT_SIMD float dot(const float* a, const float* b, int64_t n) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

SFT_SIMD float dot_bf16(const uint16_t* a, const uint16_t* b, int64_t n) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += float_simd(a[i]) * float_simd(b[i]);
  return sum;
}

SFT_SIMD void round_to_bf16(const float* x, uint16_t* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = bf16_simd(x[i]);
}

SFT_SIMD void round_to_pairs(const float* x, const float* next, uint32_t* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i)
    y[i] = static_cast<uint32_t>(bf16_simd(x[i])) | static_cast<uint32_t>(bf16_simd(next[i])) << 16;
}

}  // namespace sft::ops::cpu
