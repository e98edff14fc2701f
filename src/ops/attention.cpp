// Chooses who computes attention: the flash kernels where they cover the case, explicit scores otherwise.
#include <algorithm>

#include "ops/cpu/bf16_gemm.h"
#include "ops/cpu/cpu.h"
#include "ops/cuda/cuda.h"
#include "ops/dropout.h"
#include "ops/generic/generic.h"

namespace sft::ops {
namespace {

enum class Implementation { kGeneric, kCpuFused, kCpuBf16, kCpuFlash, kCudaFlash };

int64_t longest_row(std::span<const int64_t> cu_seqlens) {
  int64_t longest = 0;
  for (std::size_t r = 0; r + 1 < cu_seqlens.size(); ++r)
    longest = std::max(longest, cu_seqlens[r + 1] - cu_seqlens[r]);
  return longest;
}

Implementation choose(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                      std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                      const DropoutSite* dropout, ComputeDtype compute) {
  const bool bf16 = compute == ComputeDtype::kBf16;
  const bool special = is_active(dropout) || options.softcap || !options.alibi_slopes.empty();
  const bool windowed = options.sliding_window && *options.sliding_window < longest_row(cu_seqlens);
  if (q.is_cpu() && (q.scalar_type() == at::kFloat || bf16)) {
    if (cpu::fused_attention_serves(q, k, v))
      return bf16 && cpu::has_bf16_gemm() ? Implementation::kCpuBf16 : Implementation::kCpuFused;
    return special || windowed ? Implementation::kGeneric : Implementation::kCpuFlash;
  }
  if (special) return Implementation::kGeneric;
  const bool flash_serves = q.size(2) % 8 == 0 && q.size(2) <= 256;  // OpenLLaMA-3B has heads of 100
  if (q.is_cuda() && bf16 && flash_serves) return Implementation::kCudaFlash;
  return Implementation::kGeneric;
}

}  // namespace

at::Tensor attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                             const DropoutSite* dropout, ComputeDtype compute, AttentionSaved* saved) {
  switch (choose(q, k, v, cu_seqlens, options, dropout, compute)) {
    case Implementation::kCpuFused:
      return cpu::fused_attention_forward(q, k, v, cu_seqlens, options, dropout, compute, saved);
    case Implementation::kCpuBf16:
      return cpu::bf16_attention_forward(q, k, v, cu_seqlens, options, dropout, saved);
    case Implementation::kCpuFlash:
      return cpu::flash_attention_forward(q, k, v, cu_seqlens, options, compute, saved);
    case Implementation::kCudaFlash:
      return cuda::attention_forward(q, k, v, cu_seqlens, options, saved);
    case Implementation::kGeneric:
      break;
  }
  return generic::attention_forward(q, k, v, cu_seqlens, options, dropout, compute);
}

AttentionGrads attention_backward(const at::Tensor& grad_out, const at::Tensor& q, const at::Tensor& k,
                                  const at::Tensor& v, const at::Tensor& out,
                                  std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                  const DropoutSite* dropout, ComputeDtype compute,
                                  const AttentionSaved& saved) {
  switch (choose(q, k, v, cu_seqlens, options, dropout, compute)) {
    case Implementation::kCpuFused:
      return cpu::fused_attention_backward(grad_out, q, k, v, out, cu_seqlens, options, dropout, compute,
                                           saved);
    case Implementation::kCpuBf16:
      return cpu::bf16_attention_backward(grad_out, q, k, v, out, cu_seqlens, options, dropout, saved);
    case Implementation::kCpuFlash:
      return cpu::flash_attention_backward(grad_out, q, k, v, out, cu_seqlens, options, compute, saved);
    case Implementation::kCudaFlash:
      return cuda::attention_backward(grad_out, q, k, v, out, cu_seqlens, options, saved);
    case Implementation::kGeneric:
      break;
  }
  return generic::attention_backward(grad_out, q, k, v, cu_seqlens, options, dropout, compute);
}

}  // namespace sft::ops
