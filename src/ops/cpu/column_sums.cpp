// Sums over the tokens: gradients of biases.
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>

#include "ops/cpu/cpu.h"
#include "ops/cpu/simd.h"
#include "sft/base/checked.h"

namespace sft::ops::cpu {
namespace {

constexpr int64_t kColumns = 256;      // whose partial sums stay in registers and the nearest cache
constexpr int64_t kRowsPerBlock = 64;  // summed by themselves, so that rounding does not grow with every row

template <typename T>
SFT_INLINE void sum_columns(const T* x, int64_t rows, int64_t row_stride, int64_t columns, float* to) {
  for (int64_t begin = 0; begin < rows; begin += kRowsPerBlock) {
    std::array<float, kColumns> sums{};
    for (int64_t row = begin; row < std::min(begin + kRowsPerBlock, rows); ++row) {
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i)
        sums[static_cast<std::size_t>(i)] += load(x[row * row_stride + i]);
    }
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) to[i] += sums[static_cast<std::size_t>(i)];
  }
}

SFT_SIMD void add_columns(const float* x, int64_t rows, int64_t row_stride, int64_t columns, float* to) {
  sum_columns(x, rows, row_stride, columns, to);
}
SFT_SIMD void add_columns(const uint16_t* x, int64_t rows, int64_t row_stride, int64_t columns, float* to) {
  sum_columns(x, rows, row_stride, columns, to);
}

template <typename T>
void add_all(const at::Tensor& x, const at::Tensor& sums) {
  const auto* in = static_cast<const T*>(x.const_data_ptr());
  auto* to = sums.mutable_data_ptr<float>();
  const int64_t rows = x.size(0), columns = x.size(1), stride = x.stride(0);
  at::parallel_for(0, base::ceil_div(columns, kColumns), 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin * kColumns; c < std::min(end * kColumns, columns); c += kColumns) {
      add_columns(in + c, rows, stride, std::min(kColumns, columns - c), to + c);
    }
  });
}

}  // namespace

void add_column_sums(const at::Tensor& x, const at::Tensor& sums) {
  x.scalar_type() == at::kBFloat16 ? add_all<uint16_t>(x, sums) : add_all<float>(x, sums);
}

}  // namespace sft::ops::cpu
