// Activations, alone and gated, and their backwards: one pass each.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "ops/cpu/cpu.h"
#include "ops/cpu/simd.h"

namespace sft::ops::cpu {
namespace {

constexpr int64_t kTokensPerTask = 4;

// An activation and its derivative at one place.
struct Point {
  float y, slope;
};

template <Activation kKind>
SFT_INLINE Point activation_at(float x);

template <>
SFT_INLINE Point activation_at<Activation::kRelu>(float x) {
  return {x <= 0.0F ? 0.0F : x, x <= 0.0F ? 0.0F : 1.0F};  // NaN stays NaN
}

template <>
SFT_INLINE Point activation_at<Activation::kSilu>(float x) {
  const Sigmoid s = sigmoid_simd(x);
  return {x * s.value, s.value * (1.0F + x * s.complement)};
}

// x Phi(x), with Phi(x) = erfc(-x / sqrt 2) / 2 and its derivative exp(-x^2 / 2) / sqrt(2 pi).
template <>
SFT_INLINE Point activation_at<Activation::kGelu>(float x) {
  constexpr float kSqrtHalf = 0.70710678F, kDensity = 0.39894228F;
  const Erfc tail = erfc_simd(-x * kSqrtHalf);
  const float phi = 0.5F * tail.value;
  return {x * phi, phi + x * kDensity * tail.exp_of_minus_square};
}

// x (1 + tanh u) / 2 = x sigmoid(2 u), with u = sqrt(2 / pi) (x + 0.044715 x^3).
template <>
SFT_INLINE Point activation_at<Activation::kGeluTanh>(float x) {
  constexpr float kTwiceSqrt = 1.59576912F, kCubic = 0.044715F, kFlat = 30.0F;
  const Sigmoid s = sigmoid_simd(kTwiceSqrt * x * (1.0F + kCubic * x * x));
  const float inner = x < -kFlat ? -kFlat : (x > kFlat ? kFlat : x);  // beyond, the slope is 0 or 1
  const float bend = inner * kTwiceSqrt * (1.0F + 3.0F * kCubic * inner * inner);
  return {x * s.value, s.value + s.value * s.complement * bend};
}

// Without a gate, `up` and `grad_up` are null.
template <Activation kKind, typename T>
SFT_INLINE void forward_loop(const T* x, const T* up, T* y, int64_t n) {
  if (up == nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) store(activation_at<kKind>(load(x[i])).y, y[i]);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) store(activation_at<kKind>(load(x[i])).y * load(up[i]), y[i]);
  }
}

template <Activation kKind, typename T>
SFT_INLINE void backward_loop(const float* grad_y, const T* x, const T* up, T* grad_x, T* grad_up,
                              int64_t n) {
  if (up == nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) store(grad_y[i] * activation_at<kKind>(load(x[i])).slope, grad_x[i]);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const Point at = activation_at<kKind>(load(x[i]));
      store(grad_y[i] * at.y, grad_up[i]);
      store(grad_y[i] * load(up[i]) * at.slope, grad_x[i]);
    }
  }
}

template <typename T>
SFT_INLINE void forward_of_kind(Activation kind, const T* x, const T* up, T* y, int64_t n) {
  switch (kind) {
    case Activation::kRelu:
      return forward_loop<Activation::kRelu>(x, up, y, n);
    case Activation::kGelu:
      return forward_loop<Activation::kGelu>(x, up, y, n);
    case Activation::kGeluTanh:
      return forward_loop<Activation::kGeluTanh>(x, up, y, n);
    case Activation::kSilu:
      return forward_loop<Activation::kSilu>(x, up, y, n);
  }
}

template <typename T>
SFT_INLINE void backward_of_kind(Activation kind, const float* grad_y, const T* x, const T* up, T* grad_x,
                                 T* grad_up, int64_t n) {
  switch (kind) {
    case Activation::kRelu:
      return backward_loop<Activation::kRelu>(grad_y, x, up, grad_x, grad_up, n);
    case Activation::kGelu:
      return backward_loop<Activation::kGelu>(grad_y, x, up, grad_x, grad_up, n);
    case Activation::kGeluTanh:
      return backward_loop<Activation::kGeluTanh>(grad_y, x, up, grad_x, grad_up, n);
    case Activation::kSilu:
      return backward_loop<Activation::kSilu>(grad_y, x, up, grad_x, grad_up, n);
  }
}

// Templates have no clones: one function for each dtype.
SFT_SIMD void row_forward(Activation kind, const float* x, const float* up, float* y, int64_t n) {
  forward_of_kind(kind, x, up, y, n);
}
SFT_SIMD void row_forward(Activation kind, const uint16_t* x, const uint16_t* up, uint16_t* y, int64_t n) {
  forward_of_kind(kind, x, up, y, n);
}
SFT_SIMD void row_backward(Activation kind, const float* grad_y, const float* x, const float* up,
                           float* grad_x, float* grad_up, int64_t n) {
  backward_of_kind(kind, grad_y, x, up, grad_x, grad_up, n);
}
SFT_SIMD void row_backward(Activation kind, const float* grad_y, const uint16_t* x, const uint16_t* up,
                           uint16_t* grad_x, uint16_t* grad_up, int64_t n) {
  backward_of_kind(kind, grad_y, x, up, grad_x, grad_up, n);
}

// x [T, n], or [T, gate | up] of 2 n.
template <typename T>
void rows_forward(Activation kind, bool gated, const at::Tensor& x, const at::Tensor& y) {
  const int64_t n = y.size(1), width = x.size(1);
  const auto* in = static_cast<const T*>(x.const_data_ptr());
  auto* out = static_cast<T*>(y.mutable_data_ptr());
  at::parallel_for(0, y.size(0), kTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T* row = in + t * width;
      row_forward(kind, row, gated ? row + n : nullptr, out + t * n, n);
    }
  });
}

template <typename T>
void rows_backward(Activation kind, bool gated, const at::Tensor& grad_y, const at::Tensor& x,
                   const at::Tensor& grad) {
  const int64_t n = grad_y.size(1), width = x.size(1);
  const float* gy = grad_y.const_data_ptr<float>();
  const auto* in = static_cast<const T*>(x.const_data_ptr());
  auto* out = static_cast<T*>(grad.mutable_data_ptr());
  at::parallel_for(0, grad_y.size(0), kTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T* row = in + t * width;
      T* to = out + t * width;
      row_backward(kind, gy + t * n, row, gated ? row + n : nullptr, to, gated ? to + n : nullptr, n);
    }
  });
}

bool in_bf16(const at::Tensor& t) {
  return t.scalar_type() == at::kBFloat16;
}

at::Tensor forward(Activation kind, bool gated, const at::Tensor& x) {
  at::Tensor y = at::empty({x.size(0), gated ? x.size(1) / 2 : x.size(1)}, x.options());
  in_bf16(x) ? rows_forward<uint16_t>(kind, gated, x, y) : rows_forward<float>(kind, gated, x, y);
  return y;
}

at::Tensor backward(Activation kind, bool gated, const at::Tensor& grad_y, const at::Tensor& x) {
  at::Tensor grad = at::empty(x.sizes(), x.options());
  in_bf16(x) ? rows_backward<uint16_t>(kind, gated, grad_y, x, grad)
             : rows_backward<float>(kind, gated, grad_y, x, grad);
  return grad;
}

}  // namespace

at::Tensor activation_forward(Activation kind, const at::Tensor& x) {
  return forward(kind, /*gated=*/false, x);
}
at::Tensor activation_backward(Activation kind, const at::Tensor& grad_y, const at::Tensor& x) {
  return backward(kind, /*gated=*/false, grad_y, x);
}
at::Tensor gated_activation_forward(Activation kind, const at::Tensor& gate_up) {
  return forward(kind, /*gated=*/true, gate_up);
}
at::Tensor gated_activation_backward(Activation kind, const at::Tensor& grad_y, const at::Tensor& gate_up) {
  return backward(kind, /*gated=*/true, grad_y, gate_up);
}

}  // namespace sft::ops::cpu
