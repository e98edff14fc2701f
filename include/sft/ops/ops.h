// Forward/backward pairs the decoder is written in.
//
// Activations are [T, features] over the packed tokens of a micro-batch. Gradients of weights are *added* into fp32 (or fp64, in tests) views of
// the flat gradient buffer. An undefined weight means "none" (no bias); an undefined gradient output means "not wanted".
// Compute dtype: `ComputeDtype::kBf16` has the meaning of autocast: products take bf16 operands and accumulate in fp32; everything else is fp32.
// Which implementation serves (generic at:: ops, oneDNN, CUDA) is decided per call by device, dtype and shape; see dispatch in src/ops/.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace sft::ops {

enum class ComputeDtype { kFp32, kBf16 };  // kFp32: the dtype of the inputs as they are (fp64 in tests)

// t as products take it: itself (kFp32), or rounded to bf16 (kBf16): in bf16 where the device multiplies bf16, and in fp32 where it does
// not, which means the same and is faster there. What only products read may be kept so: every op that multiplies takes it.
at::Tensor operand(const at::Tensor& t, ComputeDtype compute);

// ---- linear ---------------------------------------------------------------------------------------------------------------
// y = x W^T + b. weight [out, in], or [in, out] when `transposed` (GPT-2's Conv1D).
struct LinearWeights {
  at::Tensor weight, bias;
  bool transposed = false;
};
struct LinearGrads {
  at::Tensor weight, bias;  // same shapes, accumulated into
};
// round_result: y comes as operand(y, compute).
at::Tensor linear_forward(const at::Tensor& x, const LinearWeights& w, ComputeDtype compute, bool round_result = false);
// Returns dL/dx, or an undefined tensor when !need_grad_x.
at::Tensor linear_backward(const at::Tensor& grad_y, const at::Tensor& x, const LinearWeights& w, const LinearGrads& grads,
                           ComputeDtype compute, bool need_grad_x = true);

// ---- norms ----------------------------------------------------------------------------------------------------------------
enum class NormKind { kLayerNorm, kRmsNorm };
struct NormWeights {
  at::Tensor weight, bias;  // [features]; RMSNorm: no bias
};
struct NormStats {
  at::Tensor mean, rstd;    // [T] each; RMSNorm: no mean
};
at::Tensor norm_forward(NormKind kind, const at::Tensor& x, const NormWeights& w, double eps, NormStats* stats);
// x += residual, and the norm of that, in one pass.
at::Tensor add_norm_forward(NormKind kind, at::Tensor& x, const at::Tensor& residual, const NormWeights& w, double eps, NormStats* stats);
// Returns dL/dx, with `residual_grad` (what reaches x past the norm), where given, added.
at::Tensor norm_backward(NormKind kind, const at::Tensor& grad_y, const at::Tensor& x, const NormWeights& w, const NormStats& stats,
                         const NormWeights& grads, const at::Tensor& residual_grad = {});

// ---- activations ----------------------------------------------------------------------------------------------------------
enum class Activation { kRelu, kGelu, kGeluTanh, kSilu };  // gelu: erf; gelu_new / gelu_pytorch_tanh: tanh
at::Tensor activation_forward(Activation kind, const at::Tensor& x);
at::Tensor activation_backward(Activation kind, const at::Tensor& grad_y, const at::Tensor& x);
// y = act(gate) * up, for gate_up [T, 2 I] = [gate | up].
at::Tensor gated_activation_forward(Activation kind, const at::Tensor& gate_up);
at::Tensor gated_activation_backward(Activation kind, const at::Tensor& grad_y, const at::Tensor& gate_up);  // [T, 2 I]
// Whether x, or gate_up, may come as operand(x, compute): what autocast keeps of a linear. Results, which only products read, are then
// rounded too.
bool activation_takes_rounded(const at::Tensor& x, ComputeDtype compute);

// ---- rotary positions -------------------------------------------------------------------------------------------------------
// Feature i is paired with i + rotary_pairs (transformers' rotate_half), or 2 i with 2 i + 1 (GPT-J's rotate_every_two).
enum class RotaryLayout { kHalves, kInterleaved };
// In place on x [T, heads, head_dim] (the first 2 * rotary_pairs features of each head).
// cos, sin: [T, rotary_pairs] fp32. inverse = true applies the transposed rotation (the backward).
void rotary_inplace(at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse, RotaryLayout layout = RotaryLayout::kHalves);

// ---- causal attention over packed rows ---------------------------------------------------------------------------------------
struct DropoutSite;  // below
struct AttentionOptions {
  double scale = 1.0;
  std::optional<int64_t> sliding_window;  // keys a query sees, its own included
  std::optional<double> softcap;          // scores become softcap * tanh(score / softcap)
  std::span<const double> alibi_slopes;   // [H] or empty: slope * (position of the key in its row) is added to a score
};
struct AttentionSaved {
  std::vector<at::Tensor> tensors;  // what the implementation needs again, besides q, k, v, out
};
// q [T, H, D], k and v [T, K, D] with H a multiple of K; row r is tokens [cu_seqlens[r], cu_seqlens[r+1]). Returns [T, H, D].
at::Tensor attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::span<const int64_t> cu_seqlens,
                             const AttentionOptions& options, const DropoutSite* dropout, ComputeDtype compute, AttentionSaved* saved);
struct AttentionGrads {
  at::Tensor q, k, v;
};
AttentionGrads attention_backward(const at::Tensor& grad_out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const at::Tensor& out, std::span<const int64_t> cu_seqlens, const AttentionOptions& options,
                                  const DropoutSite* dropout, ComputeDtype compute, const AttentionSaved& saved);

// ---- embedding --------------------------------------------------------------------------------------------------------------
at::Tensor embedding_forward(const at::Tensor& ids, const at::Tensor& weight);  // [T] x [V, D] -> [T, D]
// grad_weight[id] += grad_y; ids equal to padding_idx contribute nothing. Undefined grad_weight: nothing to do.
void embedding_backward(const at::Tensor& grad_y, const at::Tensor& ids, const at::Tensor& grad_weight, std::optional<int64_t> padding_idx);

// ---- dropout ----------------------------------------------------------------------------------------------------------------
// Which elements are dropped is a function of (seed, epoch, position, layer, site, segment, element within the segment): never
// of how rows are grouped.
struct DropoutRow {  // one for each segment
  int64_t epoch = 0, position = 0, segment = 0;
};
struct DropoutSite {
  double probability = 0.0;
  uint64_t seed = 0;
  int32_t layer = 0;  // -1: before the first layer
  int32_t site = 0;   // numbered by the decoder
  std::span<const int64_t> cu_seqlens;
  std::span<const DropoutRow> rows;
};
// x [T, F] times mask / (1 - p). The backward is the same call on the gradient.
at::Tensor dropout_apply(const at::Tensor& x, const DropoutSite& site);
// Keep-mask scaled by 1 / (1 - p) for `count` elements of row `row` of the site, from element 0. Float, on the CPU.
at::Tensor dropout_mask(const DropoutSite& site, int64_t row, int64_t count);

// ---- NEFTune ------------------------------------------------------------------------------------------------------------------
// x [T, F] plus noise, uniform in [-a, a) with a = alpha / sqrt(row's tokens * F) (Jain et al., arXiv 2310.05914). Random as dropout is;
// the site's probability is not used. Its backward is the identity.
at::Tensor embedding_noise_apply(const at::Tensor& x, double alpha, const DropoutSite& site);

// ---- head: logits and loss, chunked -------------------------------------------------------------------------------------------
// With p the softmax of a target's logits over V words, t its word:
//   kNll: (1 - label_smoothing) * -log p_t + label_smoothing * mean over v of -log p_v (transformers' LabelSmoother)
//   kDft: -p_t log p_t, with p_t in front held constant in the gradient (dynamic fine-tuning, arXiv 2508.05629); no label smoothing
enum class LossKind { kNll, kDft };
struct LossOptions {
  LossKind kind = LossKind::kNll;
  double label_smoothing = 0.0;
  bool token_metrics = false;  // count right guesses, sum entropies
};
struct HeadOptions {
  int64_t chunk = 512;          // targets whose logits exist at once
  double logit_scale = 1.0;
  std::optional<double> softcap = {};
  LossOptions loss = {};
};
struct HeadResult {
  at::Tensor loss_sum;     // fp64 scalar: sum of the loss over targets
  // fp64 [2], undefined unless token_metrics: targets that are the (first) word of largest logit; sum of the entropies of p, in nats.
  at::Tensor token_sums;
  at::Tensor grad_hidden;  // [N, D], undefined when gradients are not wanted
};
// hidden [N, D]: final hidden states of target tokens only; weight [V, D], bias [V] or undefined; target_ids int64 [N].
// Gradients are those of loss_scale * loss_sum. Logits exist for `chunk` targets at a time.
HeadResult head_forward_backward(const at::Tensor& hidden, const LinearWeights& w, const at::Tensor& target_ids, double loss_scale,
                                 const LinearGrads& grads, const HeadOptions& options, ComputeDtype compute);
HeadResult head_forward(const at::Tensor& hidden, const LinearWeights& w, const at::Tensor& target_ids, const HeadOptions& options,
                        ComputeDtype compute);

// The logits that loss is taken of, all at once: fp32 [N, V] (fp64 in tests).
at::Tensor head_logits(const at::Tensor& hidden, const LinearWeights& w, const HeadOptions& options, ComputeDtype compute);

// ---- sums -------------------------------------------------------------------------------------------------------------------
// Sum of squares in double, blockwise in a fixed order (independent of the thread count).
double sum_of_squares(const at::Tensor& flat);

}  // namespace sft::ops
