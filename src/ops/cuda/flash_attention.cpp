#include <ATen/Context.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/tensor.h>

#include <algorithm>

#include "ops/cuda/cuda.h"

namespace sft::ops::cuda {
namespace {

struct Rows {
  at::Tensor offsets;  // int32, on the device
  int64_t longest = 0;
};
Rows rows_on_device(std::span<const int64_t> cu_seqlens, const at::Tensor& like) {
  Rows rows;
  std::vector<int32_t> offsets(cu_seqlens.begin(), cu_seqlens.end());
  for (std::size_t r = 0; r + 1 < offsets.size(); ++r) {
    rows.longest = std::max<int64_t>(rows.longest, offsets[r + 1] - offsets[r]);
  }
  rows.offsets = at::tensor(offsets, at::TensorOptions(at::kInt)).to(like.device());
  return rows;
}

// A window of w keys, the query's own included, is w - 1 keys to the left; -1: no limit.
std::optional<int64_t> window_left(const AttentionOptions& options) {
  return options.sliding_window ? std::optional<int64_t>(*options.sliding_window - 1) : std::nullopt;
}
std::optional<int64_t> window_right(const AttentionOptions& options) {
  return options.sliding_window ? std::optional<int64_t>(0) : std::nullopt;
}

// The backward adds in a fixed order only under this setting, which for the whole program would demand more of cuBLAS.
class Deterministic {
 public:
  Deterministic() { at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false); }
  ~Deterministic() { at::globalContext().setDeterministicAlgorithms(was_, warned_); }
  Deterministic(const Deterministic&) = delete;
  Deterministic& operator=(const Deterministic&) = delete;

 private:
  const bool was_ = at::globalContext().deterministicAlgorithms();
  const bool warned_ = at::globalContext().deterministicAlgorithmsWarnOnly();
};

}  // namespace

at::Tensor attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                             AttentionSaved* saved) {
  const Rows rows = rows_on_device(cu_seqlens, q);
  auto [out, logsumexp, rng_state, unused, debug_mask] = at::_flash_attention_forward(
      q.to(at::kBFloat16), k.to(at::kBFloat16), v.to(at::kBFloat16), rows.offsets, rows.offsets, rows.longest,
      rows.longest, /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false, options.scale,
      window_left(options), window_right(options));
  if (saved != nullptr) saved->tensors = {logsumexp, rng_state, unused};
  return out.to(q.scalar_type());
}

AttentionGrads attention_backward(const at::Tensor& grad_out, const at::Tensor& q, const at::Tensor& k,
                                  const at::Tensor& v, const at::Tensor& out,
                                  std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                  const AttentionSaved& saved) {
  const Rows rows = rows_on_device(cu_seqlens, q);
  const Deterministic deterministic;
  const auto [grad_q, grad_k, grad_v] = at::_flash_attention_backward(
      grad_out.to(at::kBFloat16), q.to(at::kBFloat16), k.to(at::kBFloat16), v.to(at::kBFloat16),
      out.to(at::kBFloat16), saved.tensors[0], rows.offsets, rows.offsets, rows.longest, rows.longest,
      /*dropout_p=*/0.0, /*is_causal=*/true, saved.tensors[1], saved.tensors[2], options.scale,
      window_left(options), window_right(options));
  return {grad_q.to(at::kFloat), grad_k.to(at::kFloat), grad_v.to(at::kFloat)};
}

}  // namespace sft::ops::cuda
