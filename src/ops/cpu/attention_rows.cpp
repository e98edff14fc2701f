#include "ops/cpu/attention_rows.h"

#include <cmath>
#include <limits>

#include "ops/cpu/simd.h"

namespace sft::ops::cpu {
namespace {

SFT_INLINE float bias(const ScoreRule& rule, int64_t key, int64_t query) {
  return rule.slope * static_cast<float>(static_cast<int32_t>(key - query));
}

}  // namespace

SFT_SIMD float softmax_row(float* scores, const ScoreRule& rule, VisibleKeys visible, int64_t padded) {
  const int64_t begin = visible.begin, end = visible.end;
  float scale = rule.scale;
  if (rule.softcap != 0.0F) {
    const float inner = scale / rule.softcap;
#pragma omp simd
    for (int64_t j = begin; j < end; ++j)
      scores[j] = rule.softcap * tanh_simd(inner * scores[j]) + bias(rule, j, end - 1);
    scale = 1.0F;
  } else if (rule.slope != 0.0F) {
#pragma omp simd
    for (int64_t j = begin; j < end; ++j) scores[j] = scale * scores[j] + bias(rule, j, end - 1);
    scale = 1.0F;
  }
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

SFT_SIMD void softmax_backward_row(float* scores, float* grad, const ScoreRule& rule, float logsumexp,
                                   float delta, VisibleKeys visible, int64_t padded) {
  const int64_t begin = visible.begin, end = visible.end;
  const float scale = rule.scale;
  if (rule.only_scales()) {
#pragma omp simd
    for (int64_t j = begin; j < end; ++j) {
      scores[j] = exp_simd(scale * scores[j] - logsumexp);
      grad[j] = scale * scores[j] * (grad[j] - delta);
    }
  } else if (rule.softcap == 0.0F) {
#pragma omp simd
    for (int64_t j = begin; j < end; ++j) {
      scores[j] = exp_simd(scale * scores[j] + bias(rule, j, end - 1) - logsumexp);
      grad[j] = scale * scores[j] * (grad[j] - delta);
    }
  } else {
    const float inner = scale / rule.softcap;
#pragma omp simd
    for (int64_t j = begin; j < end; ++j) {
      const float t = tanh_simd(inner * scores[j]);
      scores[j] = exp_simd(rule.softcap * t + bias(rule, j, end - 1) - logsumexp);
      grad[j] = scale * (1.0F - t * t) * scores[j] * (grad[j] - delta);
    }
  }
  for (int64_t j = 0; j < begin; ++j) scores[j] = grad[j] = 0.0F;
  for (int64_t j = end; j < padded; ++j) scores[j] = grad[j] = 0.0F;
}

SFT_SIMD void multiply_row(float* x, const float* by, VisibleKeys visible) {
#pragma omp simd
  for (int64_t j = visible.begin; j < visible.end; ++j) x[j] *= by[j];
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
