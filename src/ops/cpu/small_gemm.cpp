// One register tile, compiled for each instruction set: rows x (vectors of columns) accumulators, one element
// of a broadcast against a row of b at a time.
#include "ops/cpu/small_gemm.h"

#include "ops/cpu/simd.h"

namespace sft::ops::cpu {
namespace {

// Vectors that may lie anywhere.
typedef float Vector8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float Vector16 __attribute__((vector_size(64), aligned(4), may_alias));

template <typename Vector>
constexpr int64_t kLanes = static_cast<int64_t>(sizeof(Vector) / sizeof(float));

template <typename Vector, int kRows, int kVectors>
SFT_INLINE void tile(const SmallGemm& g, int64_t row, int64_t column) {
  const float* a = g.a.data + row * g.a.row_stride;
  const float* b = g.b + column;
  float* c = g.c + row * g.c_row_stride + column;
  Vector sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sums[i][v] = g.accumulate
                       ? *reinterpret_cast<const Vector*>(c + i * g.c_row_stride + v * kLanes<Vector>)
                       : Vector{};
    }
  }
  for (int64_t p = 0; p < g.k; ++p) {
    Vector from_b[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      from_b[v] = *reinterpret_cast<const Vector*>(b + p * g.b_row_stride + v * kLanes<Vector>);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const float from_a = a[i * g.a.row_stride + p * g.a.column_stride];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[i][v] += from_a * from_b[v];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      *reinterpret_cast<Vector*>(c + i * g.c_row_stride + v * kLanes<Vector>) = sums[i][v];
    }
  }
}

// A strip of columns from top to bottom.
template <typename Vector, int kRows, int kVectors>
SFT_INLINE void strip(const SmallGemm& g, int64_t column) {
  int64_t row = 0;
  for (; row + kRows <= g.m; row += kRows) tile<Vector, kRows, kVectors>(g, row, column);
  for (; row + 2 <= g.m; row += 2) tile<Vector, 2, kVectors>(g, row, column);
  for (; row < g.m; ++row) tile<Vector, 1, kVectors>(g, row, column);
}

template <typename Vector, int kRows, int kVectors>
SFT_INLINE void multiply(const SmallGemm& g) {
  constexpr int64_t kWide = kVectors * kLanes<Vector>;
  constexpr int kNarrow = static_cast<int>(kGemmColumns / kLanes<Vector>);
  int64_t column = 0;
  for (; column + kWide <= g.n; column += kWide) strip<Vector, kRows, kVectors>(g, column);
  for (; column < g.n; column += kGemmColumns) strip<Vector, kRows, kNarrow>(g, column);
}

using Kernel = void (*)(const SmallGemm&);

void multiply_baseline(const SmallGemm& g) {
  multiply<Vector8, 2, 2>(g);
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void multiply_avx2(const SmallGemm& g) {
  multiply<Vector8, 6, 2>(g);
}
__attribute__((target("avx512f,avx512vl,fma"))) void multiply_avx512(const SmallGemm& g) {
  multiply<Vector16, 12, 2>(g);
}

Kernel choose() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) return &multiply_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &multiply_avx2;
  return &multiply_baseline;
}
#else
Kernel choose() {
  return &multiply_baseline;
}
#endif

}  // namespace

void small_gemm(const SmallGemm& gemm) {
  static const Kernel kernel = choose();
  kernel(gemm);
}

}  // namespace sft::ops::cpu
