// One register tile, as in small_gemm.cpp: a word of a, broadcast, against a row of words of b. Other
// processors have plain loops, which are there to be tested with.
#include "ops/cpu/bf16_gemm.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "ops/cpu/cpu.h"
#include "ops/cpu/simd.h"

namespace sft::ops::cpu {
namespace {

float low(uint32_t word) {
  return float_simd(static_cast<uint16_t>(word));
}
float high(uint32_t word) {
  return float_simd(static_cast<uint16_t>(word >> 16));
}

void multiply_words(const Bf16Gemm& g) {
  for (int64_t i = 0; i < g.m; ++i) {
    for (int64_t j = 0; j < g.n; ++j) {
      float sum = g.accumulate ? g.c[i * g.c_row_stride + j] : 0.0F;
      for (int64_t p = 0; p < g.words; ++p) {
        const uint32_t a = g.a[i * g.a_row_stride + p], b = g.b[p * g.b_row_stride + j];
        sum += low(a) * low(b) + high(a) * high(b);
      }
      g.c[i * g.c_row_stride + j] = sum;
    }
  }
}

}  // namespace

#if defined(__x86_64__)
#define SFT_BF16 __attribute__((target("avx512f,avx512vl,avx512bf16")))

namespace {

constexpr int64_t kWordLanes = 16;

template <int kRows, int kVectors>
SFT_BF16 SFT_INLINE void tile(const Bf16Gemm& g, int64_t row, int64_t column) {
  const uint32_t* a = g.a + row * g.a_row_stride;
  const uint32_t* b = g.b + column;
  float* c = g.c + row * g.c_row_stride + column;
  __m512 sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      sums[i][v] =
          g.accumulate ? _mm512_loadu_ps(c + i * g.c_row_stride + v * kWordLanes) : _mm512_setzero_ps();
  }
  for (int64_t p = 0; p < g.words; ++p) {
    __m512i from_b[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      from_b[v] = _mm512_loadu_si512(b + p * g.b_row_stride + v * kWordLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const __m512i from_a = _mm512_set1_epi32(static_cast<int>(a[i * g.a_row_stride + p]));
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sums[i][v] = _mm512_dpbf16_ps(sums[i][v], (__m512bh)from_a, (__m512bh)from_b[v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(c + i * g.c_row_stride + v * kWordLanes, sums[i][v]);
  }
}

// A strip of columns from top to bottom.
template <int kVectors>
SFT_BF16 SFT_INLINE void strip(const Bf16Gemm& g, int64_t column) {
  int64_t row = 0;
  for (; row + 12 <= g.m; row += 12) tile<12, kVectors>(g, row, column);
  for (; row + 4 <= g.m; row += 4) tile<4, kVectors>(g, row, column);
  for (; row < g.m; ++row) tile<1, kVectors>(g, row, column);
}

SFT_BF16 void multiply_words_avx512(const Bf16Gemm& g) {
  int64_t column = 0;
  for (; column + 2 * kWordLanes <= g.n; column += 2 * kWordLanes) strip<2>(g, column);
  for (; column < g.n; column += kWordLanes) strip<1>(g, column);
}

}  // namespace

bool has_bf16_gemm() {
  static const bool supported = has_bf16() && __builtin_cpu_supports("avx512bf16") &&
                                __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
  return supported;
}

void bf16_gemm(const Bf16Gemm& gemm) {
  has_bf16_gemm() ? multiply_words_avx512(gemm) : multiply_words(gemm);
}

#else

bool has_bf16_gemm() {
  return false;
}

void bf16_gemm(const Bf16Gemm& gemm) {
  multiply_words(gemm);
}

#endif

}  // namespace sft::ops::cpu
