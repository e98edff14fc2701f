// silu(gate) * up and its backward in one pass each.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "ops/cpu/cpu.h"
#include "ops/cpu/simd.h"

namespace sft::ops::cpu {
namespace {

constexpr int64_t kSwigluTokensPerTask = 4;

SFT_SIMD void row_forward(const float* gate, const float* up, float* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = gate[i] * sigmoid_simd(gate[i]) * up[i];
}

SFT_SIMD void row_backward(const float* grad_y, const float* gate, const float* up, float* grad_gate,
                           float* grad_up, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float s = sigmoid_simd(gate[i]);
    grad_up[i] = grad_y[i] * gate[i] * s;
    grad_gate[i] = grad_y[i] * up[i] * s * (1.0F + gate[i] * (1.0F - s));
  }
}

}  // namespace

at::Tensor swiglu_forward(const at::Tensor& gate_up) {
  const int64_t tokens = gate_up.size(0), n = gate_up.size(1) / 2;
  at::Tensor y = at::empty({tokens, n}, gate_up.options());
  const float* in = gate_up.const_data_ptr<float>();
  float* out = y.mutable_data_ptr<float>();
  at::parallel_for(0, tokens, kSwigluTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) row_forward(in + 2 * t * n, in + (2 * t + 1) * n, out + t * n, n);
  });
  return y;
}

at::Tensor swiglu_backward(const at::Tensor& grad_y, const at::Tensor& gate_up) {
  const int64_t tokens = gate_up.size(0), n = gate_up.size(1) / 2;
  at::Tensor grad = at::empty(gate_up.sizes(), gate_up.options());
  const float *gy = grad_y.const_data_ptr<float>(), *in = gate_up.const_data_ptr<float>();
  float* out = grad.mutable_data_ptr<float>();
  at::parallel_for(0, tokens, kSwigluTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      row_backward(gy + t * n, in + 2 * t * n, in + (2 * t + 1) * n, out + 2 * t * n, out + (2 * t + 1) * n,
                   n);
    }
  });
  return grad;
}

}  // namespace sft::ops::cpu
