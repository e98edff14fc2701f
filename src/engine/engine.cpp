#include "sft/engine/engine.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "sft/base/activity.h"
#include "sft/engine/flat_io.h"

namespace sft::engine {
namespace {

int64_t count(const std::vector<model::TensorDef>& tensors) {
  int64_t total = 0;
  for (const model::TensorDef& tensor : tensors) total += tensor.numel();
  return total;
}

}  // namespace

Engine::Engine(const model::Decoder& decoder, const EngineOptions& options, parallel::Communicator& comm,
               base::PhaseTimers& timers)
    : decoder_(decoder), options_(options), comm_(comm), timers_(timers), reducer_(comm, timers) {
  for (int64_t block = 0; block < decoder.num_blocks(); ++block) add_block(decoder.block_tensors(block));
  while (lowest_trainable_ + 1 < views_.size() && !views_[lowest_trainable_].trainable) ++lowest_trainable_;
  loss_ = at::zeros({}, at::TensorOptions().dtype(c10::kDouble).device(options.device));
  aux_loss_sum_ = at::zeros_like(loss_);
}

void Engine::add_block(const std::vector<model::TensorDef>& tensors) {
  BlockViews views;
  views.weights.resize(tensors.size());
  views.gradients.resize(tensors.size());
  if (std::ranges::any_of(tensors, [&](const model::TensorDef& tensor) { return is_packed(tensor); }))
    views.packed.resize(tensors.size());
  const auto add = [&](ParameterBlock::Kind kind, c10::ScalarType dtype,
                       std::vector<ParameterBlock>& blocks) {
    std::vector<std::size_t> indices;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].trainable == (kind == ParameterBlock::Kind::kTrainable) && !is_packed(tensors[i]))
        indices.push_back(i);
    }
    if (indices.empty()) return;
    std::ranges::stable_partition(indices, [&](std::size_t i) { return tensors[i].decay; });
    std::vector<model::TensorDef> part;
    for (const std::size_t i : indices) part.push_back(tensors[i]);
    const ParameterBlock& block = blocks.emplace_back(part, options_.device, dtype, kind);
    const model::BlockTensors placed = block.views();
    for (std::size_t i = 0; i < indices.size(); ++i) {
      views.weights[indices[i]] = placed.weights[i];
      if (!placed.grads.empty()) views.gradients[indices[i]] = placed.grads[i];
    }
    if (kind == ParameterBlock::Kind::kTrainable) views.trainable = blocks.size() - 1;
  };
  add(ParameterBlock::Kind::kFrozen, options_.frozen_dtype, frozen_blocks_);
  add(ParameterBlock::Kind::kTrainable, c10::kFloat, blocks_);
  views_.push_back(std::move(views));
}

void Engine::load_parameters(const model::TensorSource& source) {
  for (const auto* blocks : {&frozen_blocks_, &blocks_}) {
    for (const ParameterBlock& block : *blocks)
      load_flat(block, block.parameters(), source, "", comm_, LoadPart::kWithoutAdapters);
  }
  for (int64_t block = 0; block < decoder_.num_blocks(); ++block) load_packed(block, source);
}

// One block's linears in fp32 at a time.
void Engine::load_packed(int64_t block, const model::TensorSource& source) {
  const std::vector<model::TensorDef>& tensors = decoder_.block_tensors(block);
  std::vector<ops::Nf4Tensor>& packed = views_[static_cast<std::size_t>(block)].packed;
  std::vector<model::TensorDef> linears;
  std::vector<std::size_t> indices;
  for (std::size_t i = 0; i < packed.size(); ++i) {
    if (!is_packed(tensors[i])) continue;
    linears.push_back(tensors[i]);
    indices.push_back(i);
  }
  if (linears.empty()) return;
  const ParameterBlock whole(linears, options_.device, c10::kFloat, ParameterBlock::Kind::kFrozen);
  load_flat(whole, whole.parameters(), source, "", comm_);
  const model::BlockTensors views = whole.views();
  for (std::size_t i = 0; i < indices.size(); ++i) {
    const at::Tensor weight = views.weights[i].cpu();
    packed[indices[i]] =
        ops::nf4_to(ops::nf4_quantize(decoder_.spec().transposed_linear ? weight.t() : weight,
                                      options_.frozen_linears == FrozenLinears::kNf4Nested),
                    options_.device);
  }
}

void Engine::initialize_adapters(model::AdapterInit init, uint64_t seed) {
  for (std::size_t block = 0; block < views_.size(); ++block)
    decoder_.initialize_adapters(static_cast<int64_t>(block), views_[block].weights_only(), init, seed);
}

void Engine::merge_adapters() {
  for (std::size_t block = 0; block < views_.size(); ++block)
    decoder_.merge_adapters(static_cast<int64_t>(block), views_[block].weights_only());
}

void Engine::load_trainable(const model::TensorSource& source) {
  for (const ParameterBlock& block : blocks_) load_flat(block, block.parameters(), source, "", comm_);
}

void Engine::start_reduction(const BlockViews& views) {
  if (views.trainable) reducer_.start(blocks_[*views.trainable]);
}

void Engine::zero_grad() {
  for (const ParameterBlock& block : blocks_) block.gradients().zero_();
  loss_.zero_();
  aux_loss_sum_.zero_();
  num_aux_losses_ = 0;
  token_sums_.clear();
  num_targets_.clear();
}

at::Tensor Engine::forward(const model::DecoderInputs& inputs, const model::RunMode& mode,
                           model::RouterSums& routers, std::vector<model::BlockSaved>* saved,
                           std::vector<at::Tensor>* layer_inputs) {
  const auto timed = timers_.scope(mode.training ? base::Phase::kForward : base::Phase::kEvaluation);
  at::Tensor x = decoder_.embedding_forward(embedding().weights_only(), inputs, mode,
                                            saved && lowest_trainable_ == 0 ? &saved->front() : nullptr);
  for (int64_t layer = 0; layer < decoder_.num_layers(); ++layer) {
    const auto block = static_cast<std::size_t>(layer + 1);
    activity::set_block(layer + 1);
    const bool backward_comes_here = saved && block >= lowest_trainable_;
    if (backward_comes_here && options_.gradient_checkpointing) layer_inputs->push_back(x);
    x = decoder_.layer_forward(
        layer, views_[block].weights_only(), x, inputs, mode,
        backward_comes_here && !options_.gradient_checkpointing ? &(*saved)[block] : nullptr, &routers);
  }
  return x;
}

at::Tensor Engine::head_backward(const at::Tensor& hidden, const model::DecoderInputs& inputs,
                                 const model::RunMode& mode, double loss_scale) {
  const auto timed = timers_.scope(base::Phase::kBackward);
  const auto out =
      decoder_.head_forward_backward(head().all(), embedding().all(), hidden, inputs, mode, loss_scale);
  loss_.add_(out.loss_sum, loss_scale);
  if (out.token_sums.defined()) token_sums_.push_back(out.token_sums);
  return out.grad;
}

void Engine::backward(at::Tensor grad, const model::DecoderInputs& inputs, const model::RunMode& mode,
                      const at::Tensor& router_grad, std::vector<model::BlockSaved>& saved,
                      std::vector<at::Tensor>& layer_inputs, bool reduce) {
  const auto timed = timers_.scope(base::Phase::kBackward);
  for (int64_t layer = decoder_.num_layers() - 1; layer >= 0; --layer) {
    const auto block = static_cast<std::size_t>(layer + 1);
    if (block < lowest_trainable_) return;
    activity::set_block(layer + 1);
    if (options_.gradient_checkpointing) {
      decoder_.layer_forward(layer, views_[block].weights_only(), layer_inputs.back(), inputs, mode,
                             &saved[block], /*routers=*/nullptr);
      layer_inputs.pop_back();
    }
    grad = decoder_.layer_backward(layer, views_[block].all(), grad, inputs, mode, saved[block], router_grad);
    saved[block] = {};
    if (reduce) start_reduction(views_[block]);
  }
  if (lowest_trainable_ > 0) return;
  decoder_.embedding_backward(embedding().all(), grad, inputs, mode, saved.front());
  if (reduce) start_reduction(embedding());
}

void Engine::forward_backward(const data::MicroBatch& batch, double loss_scale, bool last_of_window,
                              double aux_scale) {
  const c10::AutoGradMode no_autograd(false);
  num_targets_.push_back(batch.num_targets());
  const bool balances = aux_scale > 0 && batch.num_tokens() > 0;
  if (batch.num_targets() == 0 && !balances) {  // nothing to learn: the gradient is zero
    if (last_of_window) {
      for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block) reducer_.start(*block);
    }
    return;
  }
  const model::DecoderInputs inputs = decoder_.make_inputs(batch, options_.device);
  const model::RunMode mode{.compute = options_.compute,
                            .training = true,
                            .seed = options_.seed,
                            .neftune_alpha = options_.neftune_alpha,
                            .loss = options_.loss};
  std::vector<model::BlockSaved> saved(views_.size());
  std::vector<at::Tensor> layer_inputs;
  model::RouterSums routers;
  const at::Tensor hidden = forward(inputs, mode, routers, &saved, &layer_inputs);
  at::Tensor router_grad;
  if (routers.rows > 0) {
    aux_loss_sum_.add_(routers.loss());
    ++num_aux_losses_;
    if (balances) router_grad = routers.gradient().mul_(aux_scale);
  }
  const at::Tensor grad =
      batch.num_targets() > 0 ? head_backward(hidden, inputs, mode, loss_scale) : at::zeros_like(hidden);
  if (last_of_window) start_reduction(head());
  backward(grad, inputs, mode, router_grad, saved, layer_inputs, last_of_window);
}

void Engine::finish_reduction() {
  reducer_.finish();
}

std::vector<TokenSums> Engine::local_token_sums() const {
  if (!options_.loss.token_metrics) return {};
  std::vector<TokenSums> result(num_targets_.size());
  if (token_sums_.empty()) return result;
  const at::Tensor sums = at::stack(token_sums_).to(c10::kCPU).contiguous();
  const double* values = sums.const_data_ptr<double>();
  for (std::size_t i = 0; i < result.size(); ++i) {
    if (num_targets_[i] == 0) continue;
    result[i] = {static_cast<double>(num_targets_[i]), values[0], values[1]};
    values += 2;
  }
  return result;
}

StepMetrics Engine::metrics(bool count_tokens) {
  const auto timed = timers_.scope(base::Phase::kOptimizer);
  double sum_of_squares = 0;
  for (const ParameterBlock& block : blocks_) sum_of_squares += ops::sum_of_squares(block.gradients());

  const double aux_loss = aux_loss_sum_.item<double>(), aux_count = static_cast<double>(num_aux_losses_);
  std::vector<double> sums{loss_.item<double>(), aux_loss, aux_count, count_tokens ? aux_loss : 0.0,
                           count_tokens ? aux_count : 0.0};
  const std::size_t first_token_sum = sums.size();
  for (const TokenSums& tokens : local_token_sums()) {
    for (const double value : {tokens.num_targets, tokens.num_right, tokens.entropy})
      sums.push_back(count_tokens ? value : 0.0);
  }
  {
    const auto waiting = timers_.scope(base::Phase::kCommunication);  // for the slowest rank
    comm_.check();  // the sums above had the device come to its end
    comm_.all_reduce(std::span<double>(sums));
  }

  StepMetrics result;
  result.loss = sums[0];
  result.aux_loss = {sums[1], sums[2]};
  result.counted_aux_loss = {sums[3], sums[4]};
  for (std::size_t i = first_token_sum; i < sums.size(); i += 3)
    result.micro_batches.push_back({sums[i], sums[i + 1], sums[i + 2]});
  result.grad_norm = std::sqrt(sum_of_squares);
  result.finite = std::isfinite(result.loss) && std::isfinite(result.grad_norm);
  return result;
}

BatchSums Engine::evaluate(const data::MicroBatch& batch) {
  if (batch.num_tokens() == 0 || (batch.num_targets() == 0 && !decoder_.spec().mixture)) return {};
  const c10::AutoGradMode no_autograd(false);
  const model::DecoderInputs inputs = decoder_.make_inputs(batch, options_.device);
  const model::RunMode mode{.compute = options_.compute, .loss = options_.loss};
  model::RouterSums routers;
  const at::Tensor hidden = forward(inputs, mode, routers, nullptr, nullptr);
  BatchSums result;
  if (routers.rows > 0) result.aux_loss = {routers.loss().item<double>(), 1};
  if (batch.num_targets() == 0) return result;
  const auto out =
      decoder_.head_forward(head().weights_only(), embedding().weights_only(), hidden, inputs, mode);
  result.loss = out.loss_sum.item<double>();
  if (out.token_sums.defined()) {
    result.tokens = {static_cast<double>(batch.num_targets()), out.token_sums[0].item<double>(),
                     out.token_sums[1].item<double>()};
  }
  return result;
}

at::Tensor Engine::logits(const data::MicroBatch& batch) {
  const c10::AutoGradMode no_autograd(false);
  const model::DecoderInputs inputs = decoder_.make_inputs(batch, options_.device);
  const model::RunMode mode{.compute = options_.compute};
  model::RouterSums unused;
  const at::Tensor hidden = forward(inputs, mode, unused, nullptr, nullptr);
  return decoder_.head_logits(head().weights_only(), embedding().weights_only(), hidden, mode);
}

int64_t Engine::num_parameters() const {
  int64_t total = 0;
  for (int64_t block = 0; block < decoder_.num_blocks(); ++block)
    total += count(decoder_.block_tensors(block));
  return total;
}

std::vector<Replica> Engine::replicas() const {
  std::vector<Replica> replicas;
  for (const auto* blocks : {&frozen_blocks_, &blocks_}) {
    for (const ParameterBlock& block : *blocks) {
      for (std::size_t t = 0; t < block.tensors().size(); ++t) {
        const auto [offset, numel] = block.placement(t);
        replicas.push_back({block.tensors()[t].name, block.parameters().narrow(0, offset, numel)});
      }
    }
  }
  for (std::size_t block = 0; block < views_.size(); ++block) {
    for (std::size_t t = 0; t < views_[block].packed.size(); ++t) {
      const ops::Nf4Tensor& packed = views_[block].packed[t];
      for (const at::Tensor& part : {packed.codes, packed.absmax, packed.absmax_codes, packed.nested_absmax}) {
        if (part.defined()) replicas.push_back({decoder_.block_tensors(static_cast<int64_t>(block))[t].name, part});
      }
    }
  }
  return replicas;
}

int64_t Engine::num_trainable_parameters() const {
  int64_t total = 0;
  for (const ParameterBlock& block : blocks_) total += block.num_parameters();
  return total;
}

int64_t Engine::num_embedding_parameters() const {
  return count(decoder_.block_tensors(0));
}

int64_t Engine::frozen_bytes() const {
  int64_t total = 0;
  for (const ParameterBlock& block : frozen_blocks_)
    total += static_cast<int64_t>(block.parameters().nbytes());
  const bool nested = options_.frozen_linears == FrozenLinears::kNf4Nested;
  for (int64_t block = 0; block < decoder_.num_blocks(); ++block) {
    for (const model::TensorDef& tensor : decoder_.block_tensors(block)) {
      if (is_packed(tensor)) total += ops::nf4_bytes(tensor.numel(), nested);
    }
  }
  return total;
}

}  // namespace sft::engine
