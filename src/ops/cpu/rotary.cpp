#include <ATen/Parallel.h>

#include "ops/cpu/cpu.h"
#include "ops/cpu/simd.h"

namespace sft::ops::cpu {
namespace {

constexpr int64_t kRotaryTokensPerTask = 16;

// All heads of one token.
SFT_SIMD void rotate_halves(float* x, int64_t heads, int64_t head_stride, const float* cos, const float* sin,
                           float direction, int64_t pairs) {
  for (int64_t h = 0; h < heads; ++h) {
    float *first = x + h * head_stride, *second = first + pairs;
#pragma omp simd
    for (int64_t i = 0; i < pairs; ++i) {
      const float a = first[i], b = second[i], s = direction * sin[i];
      first[i] = a * cos[i] - b * s;
      second[i] = b * cos[i] + a * s;
    }
  }
}

SFT_SIMD void rotate_neighbours(float* x, int64_t heads, int64_t head_stride, const float* cos,
                                const float* sin, float direction, int64_t pairs) {
  for (int64_t h = 0; h < heads; ++h) {
    float* head = x + h * head_stride;
#pragma omp simd
    for (int64_t i = 0; i < pairs; ++i) {
      const float a = head[2 * i], b = head[2 * i + 1], s = direction * sin[i];
      head[2 * i] = a * cos[i] - b * s;
      head[2 * i + 1] = b * cos[i] + a * s;
    }
  }
}

}  // namespace

void rotary_inplace(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse,
                    RotaryLayout layout) {
  const auto rotate_token = layout == RotaryLayout::kHalves ? rotate_halves : rotate_neighbours;
  const int64_t tokens = x.size(0), heads = x.size(1), pairs = cos.size(1);
  const int64_t token_stride = x.stride(0), head_stride = x.stride(1);
  float* data = x.mutable_data_ptr<float>();
  const float *c = cos.const_data_ptr<float>(), *s = sin.const_data_ptr<float>();
  const float direction = inverse ? -1.0F : 1.0F;
  at::parallel_for(0, tokens, kRotaryTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      rotate_token(data + t * token_stride, heads, head_stride, c + t * pairs, s + t * pairs, direction,
                   pairs);
    }
  });
}

}  // namespace sft::ops::cpu
