// Implementations for fp32 tensors on the CPU. Contracts as in sft/ops/ops.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>

#include "sft/ops/ops.h"

namespace sft::ops::cpu {

// Whether the processor multiplies bf16 itself (AVX-512 BF16 or AMX).
bool has_bf16();

enum class OneDnnKernels { kBrgemm, kAny };

// As ops::matmul through oneDNN, on at::get_num_threads() threads; a and b fp32 or bf16, c fp32.
// Returns false, having done nothing, when oneDNN has no kernel of the wanted sort for the case.
//
// Only its brgemm kernels are used (AVX-512 and up in oneDNN 2). Its older "gemm:jit" ones do not work in a
// process that loads LibTorch first: LibTorch carries a oneDNN of its own, both export the template that
// initialises those kernels, and the loader binds both to one. LibTorch's MKL is as fast on the AVX2 machines
// that would need them.
bool onednn_matmul(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias, const at::Tensor& c,
                   bool accumulate, OneDnnKernels kernels = OneDnnKernels::kBrgemm);

// LibTorch's flash kernel, row by row; key/value heads are not copied. No dropout, window or softcap.
at::Tensor attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                             ComputeDtype compute, AttentionSaved* saved);
AttentionGrads attention_backward(const at::Tensor& grad_out, const at::Tensor& q, const at::Tensor& k,
                                  const at::Tensor& v, const at::Tensor& out,
                                  std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                  ComputeDtype compute, const AttentionSaved& saved);

}  // namespace sft::ops::cpu
