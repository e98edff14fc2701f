// LayerNorm and RMSNorm, a token at a time. Weight gradients are summed per block of tokens and then over
// blocks in order, so that the result does not depend on the number of threads.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "ops/cpu/cpu.h"
#include "ops/cpu/simd.h"
#include "sft/base/checked.h"

namespace sft::ops::cpu {
namespace {

constexpr int64_t kTokensPerBlock = 32;

SFT_SIMD float row_mean(const float* x, int64_t n) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum / static_cast<float>(n);
}

// Mean of (x - mean)^2.
SFT_SIMD float row_variance(const float* x, float mean, int64_t n) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += (x[i] - mean) * (x[i] - mean);
  return sum / static_cast<float>(n);
}

// weight and bias may be null.
SFT_SIMD void row_normalise(const float* x, float mean, float rstd, const float* weight, const float* bias,
                            float* y, int64_t n) {
  if (weight == nullptr) {
    for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * rstd;
  } else if (bias == nullptr) {
    for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * rstd * weight[i];
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * rstd * weight[i] + bias[i];
  }
}

struct RowSums {
  float grad = 0.0F, grad_x_hat = 0.0F;  // means over the row
};

// Means of g and g * x_hat for g = grad_y * weight; adds this row's weight and bias gradients.
SFT_SIMD RowSums row_backward_sums(const float* grad_y, const float* x, float mean, float rstd,
                                   const float* weight, float* grad_weight, float* grad_bias, int64_t n) {
  float sum = 0.0F, sum_x_hat = 0.0F;
#pragma omp simd reduction(+ : sum, sum_x_hat)
  for (int64_t i = 0; i < n; ++i) {
    const float g = weight != nullptr ? grad_y[i] * weight[i] : grad_y[i];
    sum += g;
    sum_x_hat += g * ((x[i] - mean) * rstd);
  }
  if (grad_weight != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) grad_weight[i] += grad_y[i] * ((x[i] - mean) * rstd);
  }
  if (grad_bias != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) grad_bias[i] += grad_y[i];
  }
  const auto count = static_cast<float>(n);
  return {sum / count, sum_x_hat / count};
}

// weight and residual_grad may be null.
SFT_SIMD void row_backward(const float* grad_y, const float* x, float mean, float rstd, const float* weight,
                           const RowSums& sums, const float* residual_grad, float* grad_x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float g = weight != nullptr ? grad_y[i] * weight[i] : grad_y[i];
    const float grad = rstd * (g - sums.grad - (x[i] - mean) * rstd * sums.grad_x_hat);
    grad_x[i] = residual_grad != nullptr ? residual_grad[i] + grad : grad;
  }
}

const float* data_or_null(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr<float>() : nullptr;
}

SFT_SIMD void add_row(float* to, const float* from, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

void add_blocks(const at::Tensor& blocks, const at::Tensor& grad) {
  const int64_t n = grad.numel();
  for (int64_t b = 0; b < blocks.size(0); ++b) {
    add_row(grad.mutable_data_ptr<float>(), blocks.const_data_ptr<float>() + b * n, n);
  }
}

// `added`, where given, is `x`'s data, to which `residual` is added first.
at::Tensor forward(NormKind kind, const at::Tensor& x, float* added, const float* residual,
                   const NormWeights& w, double eps, NormStats* stats) {
  const int64_t tokens = x.size(0), n = x.size(1);
  at::Tensor y = at::empty(x.sizes(), x.options());
  NormStats own;
  own.rstd = at::empty({tokens}, x.options());
  const bool centred = kind == NormKind::kLayerNorm;
  if (centred) own.mean = at::empty({tokens}, x.options());
  const float *in = x.const_data_ptr<float>(), *weight = data_or_null(w.weight), *bias = data_or_null(w.bias);
  float *out = y.mutable_data_ptr<float>(), *rstds = own.rstd.mutable_data_ptr<float>();
  float* means = centred ? own.mean.mutable_data_ptr<float>() : nullptr;
  at::parallel_for(0, tokens, kTokensPerBlock, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (added != nullptr) add_row(added + t * n, residual + t * n, n);
      const float* row = in + t * n;
      const float mean = centred ? row_mean(row, n) : 0.0F;
      const float rstd = 1.0F / std::sqrt(row_variance(row, mean, n) + static_cast<float>(eps));
      row_normalise(row, mean, rstd, weight, bias, out + t * n, n);
      rstds[t] = rstd;
      if (centred) means[t] = mean;
    }
  });
  if (stats != nullptr) *stats = own;
  return y;
}

}  // namespace

at::Tensor norm_forward(NormKind kind, const at::Tensor& x, const NormWeights& w, double eps,
                        NormStats* stats) {
  return forward(kind, x, nullptr, nullptr, w, eps, stats);
}

at::Tensor add_norm_forward(NormKind kind, const at::Tensor& x, const at::Tensor& residual,
                            const NormWeights& w, double eps, NormStats* stats) {
  return forward(kind, x, x.mutable_data_ptr<float>(), residual.const_data_ptr<float>(), w, eps, stats);
}

at::Tensor norm_backward(NormKind kind, const at::Tensor& grad_y, const at::Tensor& x, const NormWeights& w,
                         const NormStats& stats, const NormWeights& grads, const at::Tensor& residual_grad) {
  const int64_t tokens = x.size(0), n = x.size(1), num_blocks = base::ceil_div(tokens, kTokensPerBlock);
  at::Tensor grad_x = at::empty(x.sizes(), x.options());
  const bool centred = kind == NormKind::kLayerNorm;
  const float *gy = grad_y.const_data_ptr<float>(), *in = x.const_data_ptr<float>();
  const float *rstds = stats.rstd.const_data_ptr<float>(), *weight = data_or_null(w.weight);
  const float* means = centred ? stats.mean.const_data_ptr<float>() : nullptr;
  const at::Tensor weight_blocks =
      grads.weight.defined() ? at::zeros({num_blocks, n}, x.options()) : at::Tensor();
  const at::Tensor bias_blocks =
      grads.bias.defined() ? at::zeros({num_blocks, n}, x.options()) : at::Tensor();
  float* grad_weight = weight_blocks.defined() ? weight_blocks.mutable_data_ptr<float>() : nullptr;
  float* grad_bias = bias_blocks.defined() ? bias_blocks.mutable_data_ptr<float>() : nullptr;
  const float* past = data_or_null(residual_grad);
  float* out = grad_x.mutable_data_ptr<float>();

  at::parallel_for(0, num_blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin * kTokensPerBlock; t < std::min(end * kTokensPerBlock, tokens); ++t) {
      const int64_t block = t / kTokensPerBlock;
      const float mean = centred ? means[t] : 0.0F;
      RowSums sums = row_backward_sums(gy + t * n, in + t * n, mean, rstds[t], weight,
                                       grad_weight != nullptr ? grad_weight + block * n : nullptr,
                                       grad_bias != nullptr ? grad_bias + block * n : nullptr, n);
      if (!centred) sums.grad = 0.0F;  // RMSNorm subtracts no mean
      row_backward(gy + t * n, in + t * n, mean, rstds[t], weight, sums,
                   past != nullptr ? past + t * n : nullptr, out + t * n, n);
    }
  });
  if (weight_blocks.defined()) add_blocks(weight_blocks, grads.weight);
  if (bias_blocks.defined()) add_blocks(bias_blocks, grads.bias);
  return grad_x;
}

}  // namespace sft::ops::cpu
