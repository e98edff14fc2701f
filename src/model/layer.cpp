// Saved for the backward: what is dear to compute again. Norm outputs and activations are not: they are
// recomputed.
#include "model/layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include "model/fused_linear.h"
#include "model/mixture.h"
#include "model/mlp.h"

namespace sft::model {
namespace {

// Places in BlockSaved::tensors. `Sum` is a residual sum: the input of the layer's next norm. `Output` is
// what a sublayer gave before its output norm.
enum Slot : std::size_t {
  kInput,
  kMean1,
  kRstd1,
  kQkv,
  kQueryIn,  // before the norms of queries and keys
  kQueryMean,
  kQueryRstd,
  kKeyIn,
  kKeyMean,
  kKeyRstd,
  kAttentionOut,
  kAttentionOutput,
  kAttentionOutputMean,
  kAttentionOutputRstd,
  kSum1,
  kMean2,
  kRstd2,
  kUpOut,
  kMlpOutput,
  kMlpOutputMean,
  kMlpOutputRstd,
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

// x [T, heads, head_dim] as the rows its norm is taken of: [T * heads, head_dim] or [T, heads * head_dim].
at::Tensor rows_to_norm(const at::Tensor& x, const DecoderSpec& spec) {
  return (spec.qk_norm == QkNorm::kPerHead ? x.flatten(0, 1) : x.flatten(1)).contiguous();
}

// [T, groups of (queries, key, value)] <-> [T, q | k | v]
at::Tensor blocks_of_groups(const at::Tensor& grouped, const DecoderSpec& spec) {
  const int64_t queries = spec.num_attention_heads / spec.num_key_value_heads;
  const at::Tensor groups =
      grouped.view({grouped.size(0), spec.num_key_value_heads, queries + 2, spec.head_dim});
  return at::cat({groups.narrow(2, 0, queries).flatten(1), groups.select(2, queries).flatten(1),
                  groups.select(2, queries + 1).flatten(1)},
                 1);
}
at::Tensor groups_of_blocks(const at::Tensor& blocks, const DecoderSpec& spec) {
  const int64_t kv_heads = spec.num_key_value_heads, queries = spec.num_attention_heads / kv_heads;
  const auto [q, k, v] = split_heads(blocks, spec);
  return at::cat({q.unflatten(1, {kv_heads, queries}), k.unsqueeze(2), v.unsqueeze(2)}, 2).flatten(1);
}

FusedLinear qkv_linear(const BlockView& block, const DecoderSpec& spec) {
  return spec.qkv_layout == QkvLayout::kSeparate
             ? FusedLinear(block, {Role::kQuery, Role::kKey, Role::kValue})
             : FusedLinear(block, {Role::kQueryKeyValue});
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

ops::NormWeights norm_weights(const DecoderSpec& spec, const BlockView& block, Role role) {
  ops::NormWeights weights = block.norm(role);
  if (spec.norm_unit_offset) weights.weight = weights.weight + 1.0;
  return weights;
}

struct Sublayer {
  bool is_attention;
  Role output_norm;
  DropoutKind dropout;
  Slot output, mean, rstd;
};

namespace {

constexpr Sublayer kAttention{true,
                              Role::kAttentionOutputNorm,
                              DropoutKind::kAttentionOutput,
                              kAttentionOutput,
                              kAttentionOutputMean,
                              kAttentionOutputRstd};
constexpr Sublayer kMlp{false,      Role::kMlpOutputNorm, DropoutKind::kMlpOutput,
                        kMlpOutput, kMlpOutputMean,       kMlpOutputRstd};

}  // namespace

at::Tensor DecoderLayer::forward(const at::Tensor& x, BlockSaved* saved) const {
  if (saved != nullptr) saved->tensors.assign(kNumSlots, at::Tensor());
  keep(saved, kInput, x);
  return spec_.parallel_residual ? forward_parallel(x, saved) : forward_in_turn(x, saved);
}

at::Tensor DecoderLayer::backward(const at::Tensor& grad, BlockSaved& saved) const {
  const at::Tensor grad_x =
      spec_.parallel_residual ? backward_parallel(grad, saved) : backward_in_turn(grad, saved);
  saved = {};
  return grad_x;
}

at::Tensor DecoderLayer::forward_in_turn(const at::Tensor& x, BlockSaved* saved) const {
  ops::NormStats stats1, stats2;
  const at::Tensor h1 = norms_inputs() ? normed(Role::kAttentionNorm, x, &stats1) : x;
  at::Tensor sum1 = run(kAttention, h1, saved);
  at::Tensor h2;
  if (norms_sums()) {
    h2 = normed_sum(Role::kAttentionNorm, sum1, x, &stats1);
  } else {
    h2 = norms_inputs() ? normed_sum(Role::kMlpNorm, sum1, x, &stats2) : sum1.add_(x);
  }
  const at::Tensor middle = norms_sums() ? h2 : sum1;
  keep(saved, kSum1, sum1);
  keep(saved, kMean1, kRstd1, stats1);

  at::Tensor sum2 = run(kMlp, h2, saved);
  const at::Tensor y = norms_sums() ? normed_sum(Role::kMlpNorm, sum2, middle, &stats2) : sum2.add_(middle);
  if (norms_sums()) keep(saved, kSum2, sum2);
  keep(saved, kMean2, kRstd2, stats2);
  return y;
}

at::Tensor DecoderLayer::backward_in_turn(const at::Tensor& grad, BlockSaved& saved) const {
  const ops::NormStats stats1 = stats_of(saved, kMean1, kRstd1), stats2 = stats_of(saved, kMean2, kRstd2);
  const at::Tensor sum1 = take(saved, kSum1);
  const at::Tensor middle = norms_sums() ? normed(Role::kAttentionNorm, sum1, nullptr) : sum1;

  // MLP
  const at::Tensor grad_sum2 =
      norms_sums() ? normed_backward(Role::kMlpNorm, grad, take(saved, kSum2), stats2) : grad;
  const at::Tensor h2 = norms_inputs() ? normed(Role::kMlpNorm, middle, nullptr) : middle;
  at::Tensor grad_middle = run_backward(kMlp, grad_sum2, h2, saved);
  grad_middle = norms_inputs() ? normed_backward(Role::kMlpNorm, grad_middle, middle, stats2, grad_sum2)
                               : grad_middle.add_(grad_sum2);

  // attention
  const at::Tensor x = take(saved, kInput);
  const at::Tensor grad_sum1 =
      norms_sums() ? normed_backward(Role::kAttentionNorm, grad_middle, sum1, stats1) : grad_middle;
  const at::Tensor h1 = norms_inputs() ? normed(Role::kAttentionNorm, x, nullptr) : x;
  at::Tensor grad_x = run_backward(kAttention, grad_sum1, h1, saved);
  return norms_inputs() ? normed_backward(Role::kAttentionNorm, grad_x, x, stats1, grad_sum1)
                        : grad_x.add_(grad_sum1);
}

at::Tensor DecoderLayer::forward_parallel(const at::Tensor& x, BlockSaved* saved) const {
  ops::NormStats stats1, stats2;
  const bool shared = spec_.shared_parallel_norm;
  const at::Tensor h1 = normed(shared ? Role::kSharedNorm : Role::kAttentionNorm, x, &stats1);
  const at::Tensor h2 = shared ? h1 : normed(Role::kMlpNorm, x, &stats2);
  keep(saved, kMean1, kRstd1, stats1);
  keep(saved, kMean2, kRstd2, stats2);
  return run(kAttention, h1, saved).add_(run(kMlp, h2, saved)).add_(x);
}

at::Tensor DecoderLayer::backward_parallel(const at::Tensor& grad, BlockSaved& saved) const {
  const ops::NormStats stats1 = stats_of(saved, kMean1, kRstd1), stats2 = stats_of(saved, kMean2, kRstd2);
  const at::Tensor x = take(saved, kInput);
  if (spec_.shared_parallel_norm) {
    const at::Tensor h = normed(Role::kSharedNorm, x, nullptr);
    const at::Tensor grad_h =
        run_backward(kAttention, grad, h, saved).add_(run_backward(kMlp, grad, h, saved));
    return normed_backward(Role::kSharedNorm, grad_h, x, stats1, grad);
  }
  const at::Tensor grad_h1 = run_backward(kAttention, grad, normed(Role::kAttentionNorm, x, nullptr), saved);
  const at::Tensor grad_h2 = run_backward(kMlp, grad, normed(Role::kMlpNorm, x, nullptr), saved);
  return normed_backward(Role::kAttentionNorm, grad_h1, x, stats1,
                         normed_backward(Role::kMlpNorm, grad_h2, x, stats2, grad));
}

at::Tensor DecoderLayer::run(const Sublayer& part, const at::Tensor& h, BlockSaved* saved) const {
  at::Tensor y = part.is_attention ? attend(h, saved) : feed_forward(h, saved);
  if (norms_outputs()) {
    ops::NormStats stats;
    keep(saved, part.output, y);
    y = normed(part.output_norm, y, &stats);
    keep(saved, part.mean, part.rstd, stats);
  }
  y = ops::dropout_apply(y, dropout_site(part.dropout, layer_, spec_.residual_dropout, in_, mode_));
  return spec_.residual_multiplier == 1.0 ? y : y.mul_(spec_.residual_multiplier);
}

at::Tensor DecoderLayer::run_backward(const Sublayer& part, const at::Tensor& grad_in, const at::Tensor& h,
                                      BlockSaved& saved) const {
  at::Tensor grad = spec_.residual_multiplier == 1.0 ? grad_in : grad_in * spec_.residual_multiplier;
  grad = ops::dropout_apply(grad, dropout_site(part.dropout, layer_, spec_.residual_dropout, in_, mode_));
  if (norms_outputs()) {
    grad = normed_backward(part.output_norm, grad, take(saved, part.output),
                           stats_of(saved, part.mean, part.rstd));
  }
  return part.is_attention ? attend_backward(grad, h, saved) : feed_forward_backward(grad, h, saved);
}

at::Tensor DecoderLayer::attend(const at::Tensor& h, BlockSaved* saved) const {
  at::Tensor qkv = qkv_linear(block_, spec_).forward(h, run_);
  if (spec_.qkv_layout == QkvLayout::kGroups) qkv = blocks_of_groups(qkv, spec_);
  norm_queries_and_keys(qkv, saved);
  Heads heads = split_heads(qkv, spec_);
  rotate(heads.q, /*inverse=*/false);
  rotate(heads.k, /*inverse=*/false);
  qkv = ops::operand(qkv, mode_.compute);
  heads = split_heads(qkv, spec_);
  const auto site =
      dropout_site(DropoutKind::kAttentionProbabilities, layer_, spec_.attention_dropout, in_, mode_);
  const at::Tensor out = ops::operand(
      ops::attention_forward(heads.q, heads.k, heads.v, in_.cu_seqlens, attention_options(), &site,
                             mode_.compute, saved != nullptr ? &saved->attention : nullptr),
      mode_.compute);
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
  rotate(grads.q, /*inverse=*/true);
  rotate(grads.k, /*inverse=*/true);
  at::Tensor grad_qkv = at::cat({grads.q, grads.k, grads.v}, 1).flatten(1);
  norm_queries_and_keys_backward(grad_qkv, saved);
  if (spec_.qkv_layout == QkvLayout::kGroups) grad_qkv = groups_of_blocks(grad_qkv, spec_);
  return qkv_linear(block_, spec_).backward(grad_qkv, h, run_);
}

at::Tensor DecoderLayer::feed_forward(const at::Tensor& h, BlockSaved* saved) const {
  if (kind().has_experts)
    return Mixture(spec_, block_, run_).forward(h, routers_, saved != nullptr ? &saved->experts : nullptr);
  at::Tensor up;
  const at::Tensor y = Mlp(block_, kLayerMlp, spec_.activation, run_).forward(h, {}, up);
  keep(saved, kUpOut, up);
  return y;
}

at::Tensor DecoderLayer::feed_forward_backward(const at::Tensor& grad, const at::Tensor& h,
                                               BlockSaved& saved) const {
  if (kind().has_experts) return Mixture(spec_, block_, run_).backward(grad, h, router_grad_, saved.experts);
  return Mlp(block_, kLayerMlp, spec_.activation, run_).backward(grad, h, {}, take(saved, kUpOut)).x;
}

void DecoderLayer::norm_queries_and_keys(const at::Tensor& qkv, BlockSaved* saved) const {
  if (spec_.qk_norm == QkNorm::kNone) return;
  const Heads heads = split_heads(qkv, spec_);
  const auto apply = [&](Role role, const at::Tensor& x, Slot input, Slot mean, Slot rstd) {
    const at::Tensor rows = rows_to_norm(x, spec_);
    ops::NormStats stats;
    x.copy_(normed(role, rows, &stats).view(x.sizes()));
    keep(saved, input, rows);
    keep(saved, mean, rstd, stats);
  };
  apply(Role::kQueryNorm, heads.q, kQueryIn, kQueryMean, kQueryRstd);
  apply(Role::kKeyNorm, heads.k, kKeyIn, kKeyMean, kKeyRstd);
}

void DecoderLayer::norm_queries_and_keys_backward(const at::Tensor& grad_qkv, BlockSaved& saved) const {
  if (spec_.qk_norm == QkNorm::kNone) return;
  const Heads heads = split_heads(grad_qkv, spec_);
  const auto apply = [&](Role role, const at::Tensor& grad, Slot input, Slot mean, Slot rstd) {
    grad.copy_(
        normed_backward(role, rows_to_norm(grad, spec_), take(saved, input), stats_of(saved, mean, rstd))
            .view(grad.sizes()));
  };
  apply(Role::kQueryNorm, heads.q, kQueryIn, kQueryMean, kQueryRstd);
  apply(Role::kKeyNorm, heads.k, kKeyIn, kKeyMean, kKeyRstd);
}

void DecoderLayer::rotate(at::Tensor& x, bool inverse) const {
  if (spec_.position_kind != PositionKind::kRotary || !kind().rope) return;
  const RopeTables& tables = in_.ropes[static_cast<std::size_t>(*kind().rope)];
  ops::rotary_inplace(x, tables.cos, tables.sin, inverse, spec_.rotary_layout);
}

at::Tensor DecoderLayer::normed(Role role, const at::Tensor& x, ops::NormStats* stats) const {
  return ops::norm_forward(spec_.norm_kind, x, norm_weights(spec_, block_, role), spec_.norm_eps, stats);
}

at::Tensor DecoderLayer::normed_sum(Role role, at::Tensor& x, const at::Tensor& residual,
                                    ops::NormStats* stats) const {
  return ops::add_norm_forward(spec_.norm_kind, x, residual, norm_weights(spec_, block_, role),
                               spec_.norm_eps, stats);
}

at::Tensor DecoderLayer::normed_backward(Role role, const at::Tensor& grad, const at::Tensor& x,
                                         const ops::NormStats& stats, const at::Tensor& residual_grad) const {
  return ops::norm_backward(spec_.norm_kind, grad, x, norm_weights(spec_, block_, role), stats,
                            block_.norm_grads(role), residual_grad);
}

ops::AttentionOptions DecoderLayer::attention_options() const {
  ops::AttentionOptions options;
  options.scale = spec_.attention_scale;
  options.sliding_window = kind().sliding_window;
  options.softcap = spec_.attention_softcap;
  options.alibi_slopes = spec_.alibi_slopes;
  return options;
}

}  // namespace sft::model
