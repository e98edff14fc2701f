// Small products of bf16 matrices on processors that multiply bf16 themselves (AVX-512 BF16), sums in fp32.
#pragma once

#include <cstdint>

namespace sft::ops::cpu {

// c [m, n] = a b, or c += a b. Operands are words of two bf16 that follow one another along k, the first in
// the low half: a [m, words], b [words, n], k = 2 * words. n is a multiple of 16; strides count words and
// floats.
struct Bf16Gemm {
  int64_t m, n, words;
  const uint32_t* a;
  int64_t a_row_stride;
  const uint32_t* b;
  int64_t b_row_stride;
  float* c;
  int64_t c_row_stride;
  bool accumulate;
};

// Whether it is fast on this processor.
bool has_bf16_gemm();
void bf16_gemm(const Bf16Gemm& gemm);

}  // namespace sft::ops::cpu
