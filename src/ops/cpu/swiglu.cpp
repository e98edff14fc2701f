// silu(gate) * up and its backward in one pass each.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "ops/cpu/cpu.h"
#include "ops/cpu/simd.h"

namespace sft::ops::cpu {
namespace {

constexpr int64_t kSwigluTokensPerTask = 4;

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

template <typename T>
SFT_INLINE void forward_loop(const T* gate, const T* up, T* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float g = load(gate[i]);
    store(g * sigmoid_simd(g) * load(up[i]), y[i]);
  }
}

template <typename T>
SFT_INLINE void backward_loop(const float* grad_y, const T* gate, const T* up, T* grad_gate, T* grad_up,
                              int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float g = load(gate[i]), s = sigmoid_simd(g);
    store(grad_y[i] * g * s, grad_up[i]);
    store(grad_y[i] * load(up[i]) * s * (1.0F + g * (1.0F - s)), grad_gate[i]);
  }
}

SFT_SIMD void row_forward(const float* gate, const float* up, float* y, int64_t n) {
  forward_loop(gate, up, y, n);
}
SFT_SIMD void row_forward(const uint16_t* gate, const uint16_t* up, uint16_t* y, int64_t n) {
  forward_loop(gate, up, y, n);
}
SFT_SIMD void row_backward(const float* grad_y, const float* gate, const float* up, float* grad_gate,
                           float* grad_up, int64_t n) {
  backward_loop(grad_y, gate, up, grad_gate, grad_up, n);
}
SFT_SIMD void row_backward(const float* grad_y, const uint16_t* gate, const uint16_t* up, uint16_t* grad_gate,
                           uint16_t* grad_up, int64_t n) {
  backward_loop(grad_y, gate, up, grad_gate, grad_up, n);
}

template <typename T>
void rows_forward(const at::Tensor& gate_up, const at::Tensor& y) {
  const int64_t tokens = gate_up.size(0), n = y.size(1);
  const auto* in = static_cast<const T*>(gate_up.const_data_ptr());
  auto* out = static_cast<T*>(y.mutable_data_ptr());
  at::parallel_for(0, tokens, kSwigluTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) row_forward(in + 2 * t * n, in + (2 * t + 1) * n, out + t * n, n);
  });
}

template <typename T>
void rows_backward(const at::Tensor& grad_y, const at::Tensor& gate_up, const at::Tensor& grad) {
  const int64_t tokens = gate_up.size(0), n = grad_y.size(1);
  const float* gy = grad_y.const_data_ptr<float>();
  const auto* in = static_cast<const T*>(gate_up.const_data_ptr());
  auto* out = static_cast<T*>(grad.mutable_data_ptr());
  at::parallel_for(0, tokens, kSwigluTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      row_backward(gy + t * n, in + 2 * t * n, in + (2 * t + 1) * n, out + 2 * t * n, out + (2 * t + 1) * n,
                   n);
    }
  });
}

bool in_bf16(const at::Tensor& t) {
  return t.scalar_type() == at::kBFloat16;
}

}  // namespace

at::Tensor swiglu_forward(const at::Tensor& gate_up) {
  at::Tensor y = at::empty({gate_up.size(0), gate_up.size(1) / 2}, gate_up.options());
  in_bf16(gate_up) ? rows_forward<uint16_t>(gate_up, y) : rows_forward<float>(gate_up, y);
  return y;
}

at::Tensor swiglu_backward(const at::Tensor& grad_y, const at::Tensor& gate_up) {
  at::Tensor grad = at::empty(gate_up.sizes(), gate_up.options());
  in_bf16(gate_up) ? rows_backward<uint16_t>(grad_y, gate_up, grad)
                   : rows_backward<float>(grad_y, gate_up, grad);
  return grad;
}

}  // namespace sft::ops::cpu
