// Products of small matrices that lie in cache: what attention is made of. fp32, on the calling thread.
#pragma once

#include <cstdint>

namespace sft::ops::cpu {

// Columns of c, and with them the rows of b, come in multiples of this.
inline constexpr int64_t kGemmColumns = 16;

// A matrix by its first element and the distances to the next row and column.
struct StridedMatrix {
  const float* data;
  int64_t row_stride, column_stride;
};

// c [m, n] = a [m, k] b [k, n], or c += a b when `accumulate`. Rows of b and c are contiguous; n is a
// multiple of kGemmColumns.
struct SmallGemm {
  int64_t m, n, k;
  StridedMatrix a;
  const float* b;
  int64_t b_row_stride;
  float* c;
  int64_t c_row_stride;
  bool accumulate;
};
void small_gemm(const SmallGemm& gemm);

}  // namespace sft::ops::cpu
