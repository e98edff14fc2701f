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

struct Erfc {
  float value, exp_of_minus_square;
};

// erfc(x) to a few ulp, in its small tail too. Polynomials of the Cephes library, functions erff and erfcf.
SFT_INLINE Erfc erfc_simd(float x) {
  const float magnitude = __builtin_fabsf(x), square = x * x;
  float near = 7.853861353153693E-5F;
  near = near * square - 8.010193625184903E-4F;
  near = near * square + 5.188327685732524E-3F;
  near = near * square - 2.685381193529856E-2F;
  near = near * square + 1.128358514861418E-1F;
  near = near * square - 3.761262582423300E-1F;
  near = near * square + 1.128379165726710E+0F;

  const float inverse = 1.0F / (magnitude < 1.0F ? 1.0F : magnitude), z = inverse * inverse;
  float middle = 2.326819970068386E-2F;
  middle = middle * z - 1.387039388740657E-1F;
  middle = middle * z + 3.687424674597105E-1F;
  middle = middle * z - 5.824733027278666E-1F;
  middle = middle * z + 6.210004621745983E-1F;
  middle = middle * z - 4.944515323274145E-1F;
  middle = middle * z + 3.404879937665872E-1F;
  middle = middle * z - 2.741127028184656E-1F;
  middle = middle * z + 5.638259427386472E-1F;
  float far = -1.047766399936249E+1F;
  far = far * z + 1.297719955372516E+1F;
  far = far * z - 7.495518717768503E+0F;
  far = far * z + 2.921019019210786E+0F;
  far = far * z - 1.015265279202700E+0F;
  far = far * z + 4.218463358204948E-1F;
  far = far * z - 2.820767439740514E-1F;
  far = far * z + 5.641895067754075E-1F;
  const float exp_of_minus_square = exp_simd(-square);
  const float tail = exp_of_minus_square * inverse * (magnitude < 2.0F ? middle : far);
  const float outer = x < 0.0F ? 2.0F - tail : tail;
  return {magnitude < 1.0F ? 1.0F - x * near : outer, exp_of_minus_square};
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

// fp32 as it is, bf16 in 16 bits.
SFT_INLINE float load(float x) {
  return x;
}
SFT_INLINE float load(uint16_t x) {
  return float_simd(x);
}
SFT_INLINE void store(float value, float& to) {
  to = value;
}
SFT_INLINE void store(float value, uint16_t& to) {
  to = bf16_simd(value);
}

struct Sigmoid {
  float value, complement;  // 1 - value, not rounded off where that is small
};
SFT_INLINE Sigmoid sigmoid_simd(float x) {
  const float e = exp_simd(-x), value = 1.0F / (1.0F + e);
  return {value, e * value};
}

}  // namespace sft::ops::cpu
