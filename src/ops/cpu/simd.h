// Loops the compiler vectorises, once per instruction set, chosen when the program starts.
#pragma once

#include <cstdint>

// On a function of plain loops: compiled for AVX-512, AVX2 and the baseline. Inline functions called in it
// are compiled along.
// Levels and not processor names: those are chosen for that maker's processors only.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SFT_SIMD __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SFT_SIMD
#endif
#define SFT_INLINE inline __attribute__((always_inline))

namespace sft::ops::cpu {

// __builtin_bit_cast and not std::bit_cast, which is a function: a loop that calls one is not vectorised in
// the clones.
//
// e^x to about 1 ulp, without branches; below -87.3 it stays at the smallest normal number, above 88.3 at the
// largest power. NaN gives NaN. Range reduction and polynomial as in the Cephes library (Moshier), function
// expf.
SFT_INLINE float exp_simd(float x) {
  constexpr float kLowest = -87.33654F, kHighest = 88.02F, kLog2e = 1.44269504F;
  constexpr float kLn2High = 0.693359375F, kLn2Low = -2.12194440e-4F;
  constexpr float kRounder = 12582912.0F;  // 1.5 * 2^23: adding it rounds to a whole number in the low bits
  x = x < kLowest ? kLowest : x;
  x = x > kHighest ? kHighest : x;
  const float shifted = x * kLog2e + kRounder;
  const float n = shifted - kRounder;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  const float mantissa = p * r * r + r + 1.0F;
  const int32_t exponent = __builtin_bit_cast(int32_t, shifted) - __builtin_bit_cast(int32_t, kRounder);
  return mantissa * __builtin_bit_cast(float, (exponent + 127) << 23);
}

// To about 1 ulp. Polynomial near zero as in the Cephes library, function tanhf.
SFT_INLINE float tanh_simd(float x) {
  const float magnitude = __builtin_fabsf(x), z = x * x;
  float p = -5.70498872745e-3F;
  p = p * z + 2.06390887954e-2F;
  p = p * z - 5.37397155531e-2F;
  p = p * z + 1.33314422036e-1F;
  p = p * z - 3.33332819422e-1F;
  const float near = p * z * x + x;
  const float far = 1.0F - 2.0F / (exp_simd(2.0F * magnitude) + 1.0F);
  return magnitude < 0.625F ? near : (x < 0.0F ? -far : far);
}

// The nearest bf16, of two the even one; NaN stays NaN.
SFT_INLINE uint16_t bf16_simd(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t nearest = bits + 0x7FFFU + ((bits >> 16) & 1U);
  return static_cast<uint16_t>((x != x ? 0x7FC00000U : nearest) >> 16);
}

SFT_INLINE float float_simd(uint16_t bf16) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(bf16) << 16);
}

SFT_INLINE float sigmoid_simd(float x) {
  return 1.0F / (1.0F + exp_simd(-x));
}

}  // namespace sft::ops::cpu
