// Implementations for fp32 tensors on the CPU. Contracts as in sft/ops/ops.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>

#include "sft/ops/ops.h"

namespace sft::ops::cpu {

// Whether the fused loops take this tensor.
inline bool fits(const at::Tensor& t) {
  return t.is_cpu() && t.scalar_type() == at::kFloat && t.is_contiguous();
}
inline bool fits_or_absent(const at::Tensor& t) {
  return !t.defined() || fits(t);
}

// Whether the processor multiplies bf16 itself (AVX-512 BF16 or AMX).
bool has_bf16();

enum class OneDnnKernels { kBrgemm, kAny };

// As ops::matmul through oneDNN, on at::get_num_threads() threads; a and b fp32 or bf16, c fp32, or bf16 as
// they are. Returns false, having done nothing, when oneDNN has no kernel of the wanted sort for the case.
//
// Only its brgemm kernels are used (AVX-512 and up in oneDNN 2). Its older "gemm:jit" ones do not work in a
// process that loads LibTorch first: LibTorch carries a oneDNN of its own, both export the template that
// initialises those kernels, and the loader binds both to one. LibTorch's MKL is as fast on the AVX2 machines
// that would need them.
bool onednn_matmul(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias, const at::Tensor& c,
                   bool accumulate, OneDnnKernels kernels = OneDnnKernels::kBrgemm);

// Contiguous fp32 tensors, unless said otherwise.
at::Tensor norm_forward(NormKind kind, const at::Tensor& x, const NormWeights& w, double eps,
                        NormStats* stats);
at::Tensor add_norm_forward(NormKind kind, const at::Tensor& x, const at::Tensor& residual,
                            const NormWeights& w, double eps, NormStats* stats);
at::Tensor norm_backward(NormKind kind, const at::Tensor& grad_y, const at::Tensor& x, const NormWeights& w,
                         const NormStats& stats, const NormWeights& grads, const at::Tensor& residual_grad);
// x and gate_up fp32, or bf16 and with them the result; grad_y fp32.
at::Tensor activation_forward(Activation kind, const at::Tensor& x);
at::Tensor activation_backward(Activation kind, const at::Tensor& grad_y, const at::Tensor& x);
at::Tensor gated_activation_forward(Activation kind, const at::Tensor& gate_up);
at::Tensor gated_activation_backward(Activation kind, const at::Tensor& grad_y, const at::Tensor& gate_up);
// sums [n] fp32 += the sums over the rows of x [T, n], fp32 or bf16, rows of any stride.
void add_column_sums(const at::Tensor& x, const at::Tensor& sums);
// x fp32 with any token and head strides; cos and sin contiguous fp32.
void rotary_inplace(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse,
                    RotaryLayout layout);
// As generic::cross_entropy_inplace; with grad_bf16, contiguous and of the logits' sizes, the gradient goes
// there, rounded, and what the logits are afterwards is of no use.
at::Tensor cross_entropy_inplace(const at::Tensor& logits, const at::Tensor& target_ids,
                                 const LossOptions& loss, const double* grad_scale,
                                 const at::Tensor& grad_bf16 = {});

// Our own kernel, for head dimensions that are a multiple of 16. Grouped heads are not expanded.
bool fused_attention_serves(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);
at::Tensor fused_attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                   const DropoutSite* dropout, ComputeDtype compute, AttentionSaved* saved);
AttentionGrads fused_attention_backward(const at::Tensor& grad_out, const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v, const at::Tensor& out,
                                        std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                        const DropoutSite* dropout, ComputeDtype compute,
                                        const AttentionSaved& saved);

// The same with bf16 operands, where has_bf16_gemm(). Takes fp32 or bf16; the output has the dtype of q,
// gradients are fp32.
at::Tensor bf16_attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                  const DropoutSite* dropout, AttentionSaved* saved);
AttentionGrads bf16_attention_backward(const at::Tensor& grad_out, const at::Tensor& q, const at::Tensor& k,
                                       const at::Tensor& v, const at::Tensor& out,
                                       std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                       const DropoutSite* dropout, const AttentionSaved& saved);

// LibTorch's flash kernel, row by row; key/value heads are not copied. No dropout, window,
// softcap or ALiBi.
at::Tensor flash_attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                   ComputeDtype compute, AttentionSaved* saved);
AttentionGrads flash_attention_backward(const at::Tensor& grad_out, const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v, const at::Tensor& out,
                                        std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                        ComputeDtype compute, const AttentionSaved& saved);

}  // namespace sft::ops::cpu
