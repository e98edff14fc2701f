// Saved for the backward: what is dear to compute again. Norm outputs and activations are not: they are
// recomputed.
#include "model/layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include "model/fused_linear.h"

namespace sft::model {
namespace {

// Places in BlockSaved::tensors. `Sum` is a residual sum: the input of the layer's next norm.
enum Slot : std::size_t {
  kInput,
  kMean1,
  kRstd1,
  kQkv,
  kAttentionOut,
  kSum1,
  kMean2,
  kRstd2,
  kUpOut,
  kSum2,
  kNumSlots
};

void keep(BlockSaved* saved, Slot slot, const at::Tensor& t) {
  if (saved != nullptr) saved->tensors[slot] = t;
}
void keep(BlockSaved* saved, Slot mean, Slot rstd, const ops::NormStats& stats) {
  keep(saved, mean, stats.mean);
  keep(saved, rstd, stats.rstd);
}
ops::NormStats stats_of(const BlockSaved& saved, Slot mean, Slot rstd) {
  return {saved.tensors[mean], saved.tensors[rstd]};
}
at::Tensor take(BlockSaved& saved, Slot slot) {
  return std::exchange(saved.tensors[slot], at::Tensor());
}

struct Heads {
  at::Tensor q, k, v;  // [T, heads, head_dim], views
};
Heads split_heads(const at::Tensor& qkv, const DecoderSpec& spec) {
  const int64_t heads = spec.num_attention_heads, kv_heads = spec.num_key_value_heads;
  const at::Tensor all = qkv.view({qkv.size(0), heads + 2 * kv_heads, spec.head_dim});
  return {all.narrow(1, 0, heads), all.narrow(1, heads, kv_heads), all.narrow(1, heads + kv_heads, kv_heads)};
}

FusedLinear qkv_linear(const BlockView& block, const DecoderSpec& spec) {
  return spec.fused_qkv ? FusedLinear(block, {Role::kQueryKeyValue})
                        : FusedLinear(block, {Role::kQuery, Role::kKey, Role::kValue});
}
FusedLinear up_linear(const BlockView& block, const DecoderSpec& spec) {
  return spec.gated_mlp ? FusedLinear(block, {Role::kGate, Role::kUp}) : FusedLinear(block, {Role::kUp});
}

}  // namespace

ops::DropoutSite dropout_site(DropoutKind kind, int64_t layer, double probability, const DecoderInputs& in,
                              const RunMode& mode) {
  return {.probability = mode.training ? probability : 0.0,
          .seed = mode.seed,
          .layer = static_cast<int32_t>(layer),
          .site = static_cast<int32_t>(kind),
          .cu_seqlens = in.cu_seqlens,
          .rows = in.dropout_rows};
}

at::Tensor DecoderLayer::forward(const at::Tensor& x, BlockSaved* saved) const {
  if (saved != nullptr) saved->tensors.assign(kNumSlots, at::Tensor());
  ops::NormStats stats1, stats2;
  keep(saved, kInput, x);

  const at::Tensor h1 = pre_norm() ? normed(Role::kAttentionNorm, x, &stats1) : x;
  const at::Tensor sum1 = dropped(DropoutKind::kAttentionOutput, attend(h1, saved)).add_(x);
  const at::Tensor middle = pre_norm() ? sum1 : normed(Role::kAttentionNorm, sum1, &stats1);
  keep(saved, kSum1, sum1);
  keep(saved, kMean1, kRstd1, stats1);

  const at::Tensor h2 = pre_norm() ? normed(Role::kMlpNorm, middle, &stats2) : middle;
  const at::Tensor sum2 = dropped(DropoutKind::kMlpOutput, feed_forward(h2, saved)).add_(middle);
  if (pre_norm()) {
    keep(saved, kMean2, kRstd2, stats2);
    return sum2;
  }
  const at::Tensor y = normed(Role::kMlpNorm, sum2, &stats2);
  keep(saved, kSum2, sum2);
  keep(saved, kMean2, kRstd2, stats2);
  return y;
}

at::Tensor DecoderLayer::backward(const at::Tensor& grad, BlockSaved& saved) const {
  const ops::NormStats stats1 = stats_of(saved, kMean1, kRstd1), stats2 = stats_of(saved, kMean2, kRstd2);
  const at::Tensor sum1 = take(saved, kSum1);

  // MLP
  const at::Tensor grad_sum2 =
      pre_norm() ? grad : normed_backward(Role::kMlpNorm, grad, take(saved, kSum2), stats2);
  const at::Tensor h2 = normed(pre_norm() ? Role::kMlpNorm : Role::kAttentionNorm, sum1, nullptr);
  at::Tensor grad_middle = feed_forward_backward(dropped(DropoutKind::kMlpOutput, grad_sum2), h2, saved);
  if (pre_norm()) grad_middle = normed_backward(Role::kMlpNorm, grad_middle, sum1, stats2);
  grad_middle.add_(grad_sum2);

  // attention
  const at::Tensor x = take(saved, kInput);
  const at::Tensor grad_sum1 =
      pre_norm() ? grad_middle : normed_backward(Role::kAttentionNorm, grad_middle, sum1, stats1);
  const at::Tensor h1 = pre_norm() ? normed(Role::kAttentionNorm, x, nullptr) : x;
  at::Tensor grad_x = attend_backward(dropped(DropoutKind::kAttentionOutput, grad_sum1), h1, saved);
  if (pre_norm()) grad_x = normed_backward(Role::kAttentionNorm, grad_x, x, stats1);
  saved = {};
  return grad_x.add_(grad_sum1);
}

at::Tensor DecoderLayer::attend(const at::Tensor& h, BlockSaved* saved) const {
  const at::Tensor qkv = qkv_linear(block_, spec_).forward(h, run_);
  Heads heads = split_heads(qkv, spec_);
  if (spec_.position_kind == PositionKind::kRotary) {
    ops::rotary_inplace(heads.q, in_.rope_cos, in_.rope_sin, /*inverse=*/false);
    ops::rotary_inplace(heads.k, in_.rope_cos, in_.rope_sin, /*inverse=*/false);
  }
  const auto site =
      dropout_site(DropoutKind::kAttentionProbabilities, layer_, spec_.attention_dropout, in_, mode_);
  const at::Tensor out =
      ops::attention_forward(heads.q, heads.k, heads.v, in_.cu_seqlens, attention_options(), &site,
                             mode_.compute, saved != nullptr ? &saved->attention : nullptr);
  keep(saved, kQkv, qkv);
  keep(saved, kAttentionOut, out);
  return FusedLinear(block_, {Role::kAttentionOut}).forward(out.flatten(1), run_);
}

at::Tensor DecoderLayer::attend_backward(const at::Tensor& grad, const at::Tensor& h,
                                         BlockSaved& saved) const {
  const at::Tensor qkv = take(saved, kQkv), out = take(saved, kAttentionOut);
  const Heads heads = split_heads(qkv, spec_);
  const at::Tensor grad_out = FusedLinear(block_, {Role::kAttentionOut}).backward(grad, out.flatten(1), run_);
  const auto site =
      dropout_site(DropoutKind::kAttentionProbabilities, layer_, spec_.attention_dropout, in_, mode_);
  ops::AttentionGrads grads =
      ops::attention_backward(grad_out.view(out.sizes()), heads.q, heads.k, heads.v, out, in_.cu_seqlens,
                              attention_options(), &site, mode_.compute, saved.attention);
  if (spec_.position_kind == PositionKind::kRotary) {
    ops::rotary_inplace(grads.q, in_.rope_cos, in_.rope_sin, /*inverse=*/true);
    ops::rotary_inplace(grads.k, in_.rope_cos, in_.rope_sin, /*inverse=*/true);
  }
  const at::Tensor grad_qkv = at::cat({grads.q, grads.k, grads.v}, 1).flatten(1);
  return qkv_linear(block_, spec_).backward(grad_qkv, h, run_);
}

at::Tensor DecoderLayer::feed_forward(const at::Tensor& h, BlockSaved* saved) const {
  const at::Tensor up = up_linear(block_, spec_).forward(h, run_);
  keep(saved, kUpOut, up);
  return FusedLinear(block_, {Role::kDown}).forward(activated(up), run_);
}

at::Tensor DecoderLayer::feed_forward_backward(const at::Tensor& grad, const at::Tensor& h,
                                               BlockSaved& saved) const {
  const at::Tensor up = take(saved, kUpOut);
  const at::Tensor grad_activated = FusedLinear(block_, {Role::kDown}).backward(grad, activated(up), run_);
  return up_linear(block_, spec_).backward(activated_backward(grad_activated, up), h, run_);
}

at::Tensor DecoderLayer::normed(Role role, const at::Tensor& x, ops::NormStats* stats) const {
  return ops::norm_forward(spec_.norm_kind, x, block_.norm(role), spec_.norm_eps, stats);
}

at::Tensor DecoderLayer::normed_backward(Role role, const at::Tensor& grad, const at::Tensor& x,
                                         const ops::NormStats& stats) const {
  return ops::norm_backward(spec_.norm_kind, grad, x, block_.norm(role), stats, spec_.norm_eps,
                            block_.norm_grads(role));
}

at::Tensor DecoderLayer::dropped(DropoutKind kind, const at::Tensor& x) const {
  return ops::dropout_apply(x, dropout_site(kind, layer_, spec_.residual_dropout, in_, mode_));
}

at::Tensor DecoderLayer::activated(const at::Tensor& up) const {
  return spec_.gated_mlp ? ops::gated_activation_forward(spec_.activation, up)
                         : ops::activation_forward(spec_.activation, up);
}

at::Tensor DecoderLayer::activated_backward(const at::Tensor& grad, const at::Tensor& up) const {
  return spec_.gated_mlp ? ops::gated_activation_backward(spec_.activation, grad, up)
                         : ops::activation_backward(spec_.activation, grad, up);
}

ops::AttentionOptions DecoderLayer::attention_options() const {
  ops::AttentionOptions options;
  options.scale = spec_.attention_scale;
  return options;
}

}  // namespace sft::model
