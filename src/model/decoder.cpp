#include "sft/model/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <set>

#include "model/fused_linear.h"
#include "model/layer.h"
#include "model/layout.h"
#include "model/rope.h"
#include "sft/base/error.h"

namespace sft::model {
namespace {

using base::ExitCode;

// No call records an autograd graph: every backward here is explicit.
using NoGrad = c10::AutoGradMode;

class TransformerDecoder final : public Decoder {
 public:
  TransformerDecoder(const DecoderSpec& spec, const Family& family, const AdapterSpec* adapter)
      : spec_(untied_where_saved(spec, family, adapter)), layouts_(make_layouts(spec_, family, adapter)) {
    spec_.num_parameters = 0;
    for (const BlockLayout& layout : layouts_) {
      for (const TensorDef& tensor : layout.tensors) spec_.num_parameters += tensor.numel();
    }
  }

  const DecoderSpec& spec() const override { return spec_; }
  const std::vector<TensorDef>& block_tensors(int64_t block) const override { return layout(block).tensors; }
  void initialize_adapters(int64_t block, const BlockTensors& tensors, AdapterInit init,
                           uint64_t seed) const override;
  void merge_adapters(int64_t block, const BlockTensors& tensors) const override;
  std::vector<std::string> adapted_modules() const override;
  DecoderInputs make_inputs(const data::MicroBatch& batch, c10::Device device) const override;

  at::Tensor embedding_forward(const BlockTensors& block, const DecoderInputs& in, const RunMode& mode,
                               BlockSaved* saved) const override;
  void embedding_backward(const BlockTensors& block, const at::Tensor& grad, const DecoderInputs& in,
                          const RunMode& mode, BlockSaved& saved) const override;
  at::Tensor layer_forward(int64_t layer, const BlockTensors& block, const at::Tensor& x,
                           const DecoderInputs& in, const RunMode& mode, BlockSaved* saved,
                           RouterSums* routers) const override;
  at::Tensor layer_backward(int64_t layer, const BlockTensors& block, const at::Tensor& grad,
                            const DecoderInputs& in, const RunMode& mode, BlockSaved& saved,
                            const at::Tensor& router_grad) const override;
  HeadOutput head_forward_backward(const BlockTensors& head, const BlockTensors& embedding,
                                   const at::Tensor& x, const DecoderInputs& in, const RunMode& mode,
                                   double loss_scale) const override;
  HeadOutput head_forward(const BlockTensors& head, const BlockTensors& embedding, const at::Tensor& x,
                          const DecoderInputs& in, const RunMode& mode) const override;
  at::Tensor head_logits(const BlockTensors& head, const BlockTensors& embedding, const at::Tensor& x,
                         const RunMode& mode) const override;

 private:
  const BlockLayout& layout(int64_t block) const { return layouts_.at(static_cast<std::size_t>(block)); }
  BlockView view(int64_t block, const BlockTensors& tensors) const {
    return {layout(block), tensors, spec_.transposed_linear};
  }
  at::Tensor position_rows(const DecoderInputs& in) const { return in.position_ids + spec_.position_offset; }
  at::Tensor looked_up(const BlockView& block, const DecoderInputs& in, const RunMode& mode,
                       BlockSaved* saved) const;

  // The head before the output embedding, for some rows x [N, hidden_size].
  struct HeadHidden {
    at::Tensor normed, projected;  // the same tensor where nothing is projected
    ops::NormStats stats;
  };
  HeadHidden head_hidden(const BlockView& head, const at::Tensor& x, const LinearRun& run) const;
  at::Tensor head_hidden_backward(const BlockView& head, at::Tensor grad, const at::Tensor& x,
                                  const HeadHidden& hidden, const LinearRun& run) const;
  LinearRun head_run(const DecoderInputs& in, const RunMode& mode) const {
    return {num_layers(), in, mode, in.target_positions};
  }
  ops::LinearWeights output_weights(const BlockView& head, const BlockTensors& embedding) const;
  ops::LinearGrads output_grads(const BlockView& head, const BlockTensors& embedding) const;
  ops::HeadOptions head_options(const RunMode& mode) const {
    ops::HeadOptions options;
    options.loss = mode.loss;
    options.logit_scale = spec_.logit_scale;
    options.softcap = spec_.logit_softcap;
    return options;
  }

  DecoderSpec spec_;
  std::vector<BlockLayout> layouts_;
};

// ---- adapters
// ----------------------------------------------------------------------------------------------------------------

void TransformerDecoder::initialize_adapters(int64_t block, const BlockTensors& tensors, AdapterInit init,
                                             uint64_t seed) const {
  const NoGrad no_grad(false);
  for (const auto& [role, place] : layout(block).adapters)
    lora_initialize(*view(block, tensors).lora(role), init, seed);
}

void TransformerDecoder::merge_adapters(int64_t block, const BlockTensors& tensors) const {
  const NoGrad no_grad(false);
  for (const auto& [role, place] : layout(block).adapters) {
    Lora lora = *view(block, tensors).lora(role);
    lora.base = view(block, tensors).linear(role);
    lora_merge(lora);
  }
}

std::vector<std::string> TransformerDecoder::adapted_modules() const {
  std::set<std::string> names;
  for (const BlockLayout& layout : layouts_) {
    for (const auto& [role, place] : layout.adapters) {
      std::string name = layout.tensors[static_cast<std::size_t>(place.a)].name;
      name.erase(name.rfind(".lora_A"));
      names.insert(name.substr(name.rfind('.') + 1));
    }
  }
  return {names.begin(), names.end()};
}

// ---- inputs
// -----------------------------------------------------------------------------------------------------------------

DecoderInputs TransformerDecoder::make_inputs(const data::MicroBatch& batch, c10::Device device) const {
  const NoGrad no_grad(false);
  const int64_t num_tokens = batch.num_tokens();
  if (spec_.longest_row && num_tokens > 0) {
    const auto longest = batch.position_ids.max().item<int64_t>() + 1;
    if (longest > *spec_.longest_row) {
      base::fail(
          ExitCode::kInvalidData,
          "a row of {} tokens is longer than the {} positions of the model; set max_length = {} or less",
          longest, *spec_.longest_row, *spec_.longest_row);
    }
  }
  DecoderInputs in;
  in.input_ids = batch.input_ids.to(device);
  in.position_ids = batch.position_ids.to(device);
  in.cu_seqlens = batch.cu_seqlens;
  in.target_positions = batch.target_positions.to(device);
  in.target_ids = batch.target_ids.to(device);
  for (const RopeSpec& rope : spec_.ropes) in.ropes.push_back(rope_tables(rope, in.position_ids));
  for (const data::RowId& row : batch.rows) in.dropout_rows.push_back({row.epoch, row.position, row.segment});
  return in;
}

// ---- embedding
// --------------------------------------------------------------------------------------------------------------

// Word and position embeddings added up.
at::Tensor TransformerDecoder::looked_up(const BlockView& block, const DecoderInputs& in, const RunMode& mode,
                                         BlockSaved* saved) const {
  at::Tensor x = ops::embedding_forward(in.input_ids, block.weight(Role::kTokenEmbedding));
  if (x.scalar_type() == at::kBFloat16) x = x.to(at::kFloat);  // frozen weights may be held in bf16
  if (spec_.scaled_embedding) x.mul_(spec_.embedding_scale);
  if (mode.training) {
    x = ops::embedding_noise_apply(x, mode.neftune_alpha,
                                   dropout_site(DropoutKind::kEmbeddingNoise, -1, 0.0, in, mode));
  }
  if (block.has(Role::kProjectIn)) {
    if (saved != nullptr) saved->tensors = {x};
    x = FusedLinear(block, {Role::kProjectIn}).forward(x, {-1, in, mode});
  }
  if (!spec_.scaled_embedding && spec_.embedding_scale != 1.0) x.mul_(spec_.embedding_scale);
  if (block.has(Role::kPositionEmbedding)) {
    x.add_(ops::embedding_forward(position_rows(in), block.weight(Role::kPositionEmbedding)));
  }
  return x;
}

at::Tensor TransformerDecoder::embedding_forward(const BlockTensors& tensors, const DecoderInputs& in,
                                                 const RunMode& mode, BlockSaved* saved) const {
  const NoGrad no_grad(false);
  const BlockView block = view(0, tensors);
  at::Tensor x = looked_up(block, in, mode, saved);
  if (spec_.embedding_norm) {
    x = ops::norm_forward(spec_.norm_kind, x, norm_weights(spec_, block, Role::kEmbeddingNorm),
                          spec_.norm_eps, nullptr);
  }
  return ops::dropout_apply(x, dropout_site(DropoutKind::kEmbedding, -1, spec_.embedding_dropout, in, mode));
}

void TransformerDecoder::embedding_backward(const BlockTensors& tensors, const at::Tensor& grad_in,
                                            const DecoderInputs& in, const RunMode& mode,
                                            BlockSaved& saved) const {
  const NoGrad no_grad(false);
  const BlockView block = view(0, tensors);
  at::Tensor grad = ops::dropout_apply(
      grad_in, dropout_site(DropoutKind::kEmbedding, -1, spec_.embedding_dropout, in, mode));
  if (spec_.embedding_norm) {  // a lookup is cheaper than keeping its result
    const ops::NormWeights weights = norm_weights(spec_, block, Role::kEmbeddingNorm);
    const at::Tensor x = looked_up(block, in, mode, nullptr);
    ops::NormStats stats;
    ops::norm_forward(spec_.norm_kind, x, weights, spec_.norm_eps, &stats);
    grad =
        ops::norm_backward(spec_.norm_kind, grad, x, weights, stats, block.norm_grads(Role::kEmbeddingNorm));
  }
  if (block.has(Role::kPositionEmbedding)) {
    ops::embedding_backward(grad, position_rows(in), block.grad(Role::kPositionEmbedding), std::nullopt);
  }
  if (spec_.embedding_scale != 1.0) grad = grad * spec_.embedding_scale;
  if (block.has(Role::kProjectIn)) {
    grad = FusedLinear(block, {Role::kProjectIn}).backward(grad, saved.tensors.at(0), {-1, in, mode});
  }
  ops::embedding_backward(grad, in.input_ids, block.grad(Role::kTokenEmbedding), spec_.padding_idx);
  saved = {};
}

// ---- layers
// -----------------------------------------------------------------------------------------------------------------

at::Tensor TransformerDecoder::layer_forward(int64_t layer, const BlockTensors& tensors, const at::Tensor& x,
                                             const DecoderInputs& in, const RunMode& mode, BlockSaved* saved,
                                             RouterSums* routers) const {
  const NoGrad no_grad(false);
  const BlockView block = view(layer + 1, tensors);
  return DecoderLayer(spec_, layer, block, in, mode, routers).forward(x, saved);
}

at::Tensor TransformerDecoder::layer_backward(int64_t layer, const BlockTensors& tensors,
                                              const at::Tensor& grad, const DecoderInputs& in,
                                              const RunMode& mode, BlockSaved& saved,
                                              const at::Tensor& router_grad) const {
  const NoGrad no_grad(false);
  const BlockView block = view(layer + 1, tensors);
  return DecoderLayer(spec_, layer, block, in, mode, nullptr, router_grad).backward(grad, saved);
}

// ---- head
// -------------------------------------------------------------------------------------------------------------------

TransformerDecoder::HeadHidden TransformerDecoder::head_hidden(const BlockView& head, const at::Tensor& x,
                                                               const LinearRun& run) const {
  HeadHidden hidden;
  hidden.normed = spec_.final_norm
                      ? ops::norm_forward(spec_.norm_kind, x, norm_weights(spec_, head, Role::kFinalNorm),
                                          spec_.norm_eps, &hidden.stats)
                      : x;
  hidden.projected = head.has(Role::kProjectOut)
                         ? FusedLinear(head, {Role::kProjectOut}).forward(hidden.normed, run)
                         : hidden.normed;
  return hidden;
}

at::Tensor TransformerDecoder::head_hidden_backward(const BlockView& head, at::Tensor grad,
                                                    const at::Tensor& x, const HeadHidden& hidden,
                                                    const LinearRun& run) const {
  if (head.has(Role::kProjectOut))
    grad = FusedLinear(head, {Role::kProjectOut}).backward(grad, hidden.normed, run);
  if (!spec_.final_norm) return grad;
  return ops::norm_backward(spec_.norm_kind, grad, x, norm_weights(spec_, head, Role::kFinalNorm),
                            hidden.stats, head.norm_grads(Role::kFinalNorm));
}

ops::LinearWeights TransformerDecoder::output_weights(const BlockView& head,
                                                      const BlockTensors& embedding) const {
  ops::LinearWeights weights = head.linear(Role::kOutputEmbedding);
  if (spec_.tie_word_embeddings) weights.weight = view(0, embedding).weight(Role::kTokenEmbedding);
  weights.transposed = false;  // [vocab, features] in every family
  return weights;
}

ops::LinearGrads TransformerDecoder::output_grads(const BlockView& head,
                                                  const BlockTensors& embedding) const {
  ops::LinearGrads grads = head.linear_grads(Role::kOutputEmbedding);
  if (spec_.tie_word_embeddings) grads.weight = view(0, embedding).grad(Role::kTokenEmbedding);
  return grads;
}

Decoder::HeadOutput TransformerDecoder::head_forward_backward(const BlockTensors& tensors,
                                                              const BlockTensors& embedding,
                                                              const at::Tensor& x, const DecoderInputs& in,
                                                              const RunMode& mode, double loss_scale) const {
  const NoGrad no_grad(false);
  const BlockView head = view(num_blocks() - 1, tensors);
  const at::Tensor rows = x.index_select(0, in.target_positions);
  const HeadHidden hidden = head_hidden(head, rows, head_run(in, mode));
  const ops::HeadResult result =
      ops::head_forward_backward(hidden.projected, output_weights(head, embedding), in.target_ids, loss_scale,
                                 output_grads(head, embedding), head_options(mode), mode.compute);
  const at::Tensor grad_rows =
      head_hidden_backward(head, result.grad_hidden, rows, hidden, head_run(in, mode));
  at::Tensor grad = at::zeros_like(x);
  grad.index_copy_(0, in.target_positions, grad_rows);
  return {result.loss_sum, result.token_sums, grad};
}

Decoder::HeadOutput TransformerDecoder::head_forward(const BlockTensors& tensors,
                                                     const BlockTensors& embedding, const at::Tensor& x,
                                                     const DecoderInputs& in, const RunMode& mode) const {
  const NoGrad no_grad(false);
  const BlockView head = view(num_blocks() - 1, tensors);
  const HeadHidden hidden = head_hidden(head, x.index_select(0, in.target_positions), head_run(in, mode));
  const ops::HeadResult result = ops::head_forward(hidden.projected, output_weights(head, embedding),
                                                   in.target_ids, head_options(mode), mode.compute);
  return {result.loss_sum, result.token_sums, {}};
}

at::Tensor TransformerDecoder::head_logits(const BlockTensors& tensors, const BlockTensors& embedding,
                                           const at::Tensor& x, const RunMode& mode) const {
  const NoGrad no_grad(false);
  const BlockView head = view(num_blocks() - 1, tensors);
  const DecoderInputs no_inputs;  // dropout is off
  return ops::head_logits(head_hidden(head, x, {num_layers(), no_inputs, mode}).projected,
                          output_weights(head, embedding), head_options(mode), mode.compute);
}

}  // namespace

std::unique_ptr<Decoder> Decoder::create(const DecoderSpec& spec, const AdapterSpec* adapter) {
  const auto families = all_families();
  const auto family = std::ranges::find(families, spec.model_type, &Family::model_type);
  if (family == families.end()) {
    base::fail(ExitCode::kInvalidData, "model_type = {} is not a model family sft-dist knows",
               spec.model_type);
  }
  return std::make_unique<TransformerDecoder>(spec, **family, adapter);
}

}  // namespace sft::model
