#include "sft/engine/engine.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "sft/base/activity.h"
#include "sft/engine/flat_io.h"

namespace sft::engine {

Engine::Engine(const model::Decoder& decoder, const EngineOptions& options, parallel::Communicator& comm,
               base::PhaseTimers& timers)
    : decoder_(decoder), options_(options), comm_(comm), timers_(timers), reducer_(comm, timers) {
  for (int64_t block = 0; block < decoder.num_blocks(); ++block) {
    blocks_.emplace_back(decoder.block_tensors(block), options.device);
  }
  loss_sum_ = at::zeros({}, at::TensorOptions().dtype(c10::kDouble).device(options.device));
}

void Engine::load_parameters(const model::TensorSource& source) {
  for (const ParameterBlock& block : blocks_) load_flat(block, block.parameters(), source, "", comm_);
}

void Engine::zero_grad() {
  for (const ParameterBlock& block : blocks_) block.gradients().zero_();
  loss_sum_.zero_();
  token_sums_.clear();
  num_targets_.clear();
}

at::Tensor Engine::forward(const model::DecoderInputs& inputs, const model::RunMode& mode,
                           std::vector<model::BlockSaved>* saved, std::vector<at::Tensor>* layer_inputs) {
  const auto timed = timers_.scope(base::Phase::kForward);
  at::Tensor x =
      decoder_.embedding_forward(embedding().weights_only(), inputs, mode, saved ? &saved->front() : nullptr);
  for (int64_t layer = 0; layer < decoder_.num_layers(); ++layer) {
    const auto block = static_cast<std::size_t>(layer + 1);
    activity::set_block(layer + 1);
    const bool keep = saved && !options_.gradient_checkpointing;
    if (layer_inputs && options_.gradient_checkpointing) layer_inputs->push_back(x);
    x = decoder_.layer_forward(layer, blocks_[block].weights_only(), x, inputs, mode,
                               keep ? &(*saved)[block] : nullptr);
  }
  return x;
}

void Engine::backward(at::Tensor grad, const model::DecoderInputs& inputs, const model::RunMode& mode,
                      std::vector<model::BlockSaved>& saved, std::vector<at::Tensor>& layer_inputs,
                      bool reduce) {
  const auto timed = timers_.scope(base::Phase::kBackward);
  for (int64_t layer = decoder_.num_layers() - 1; layer >= 0; --layer) {
    const auto block = static_cast<std::size_t>(layer + 1);
    activity::set_block(layer + 1);
    if (options_.gradient_checkpointing) {
      decoder_.layer_forward(layer, blocks_[block].weights_only(), layer_inputs.back(), inputs, mode,
                             &saved[block]);
      layer_inputs.pop_back();
    }
    grad = decoder_.layer_backward(layer, blocks_[block].views(), grad, inputs, mode, saved[block]);
    saved[block] = {};
    if (reduce) reducer_.start(blocks_[block]);
  }
  decoder_.embedding_backward(embedding().views(), grad, inputs, mode, saved.front());
  if (reduce) reducer_.start(embedding());
}

void Engine::forward_backward(const data::MicroBatch& batch, double loss_scale, bool last_of_window) {
  const c10::AutoGradMode no_autograd(false);
  num_targets_.push_back(batch.num_targets());
  if (batch.num_targets() == 0) {  // nothing to learn: the gradient is zero
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
  std::vector<model::BlockSaved> saved(blocks_.size());
  std::vector<at::Tensor> layer_inputs;
  const at::Tensor hidden = forward(inputs, mode, &saved, &layer_inputs);

  model::Decoder::HeadOutput out;
  {
    const auto timed = timers_.scope(base::Phase::kBackward);
    out =
        decoder_.head_forward_backward(head().views(), embedding().views(), hidden, inputs, mode, loss_scale);
    loss_sum_.add_(out.loss_sum);
    if (out.token_sums.defined()) token_sums_.push_back(out.token_sums);
    if (last_of_window) reducer_.start(head());
  }
  backward(out.grad, inputs, mode, saved, layer_inputs, last_of_window);
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

  std::vector<double> sums{loss_sum_.item<double>()};
  for (const TokenSums& tokens : local_token_sums()) {
    for (const double value : {tokens.num_targets, tokens.num_right, tokens.entropy})
      sums.push_back(count_tokens ? value : 0.0);
  }
  comm_.all_reduce(std::span<double>(sums));

  StepMetrics result;
  result.loss_sum = sums[0];
  for (std::size_t i = 1; i < sums.size(); i += 3)
    result.micro_batches.push_back({sums[i], sums[i + 1], sums[i + 2]});
  result.grad_norm = std::sqrt(sum_of_squares);
  result.finite = std::isfinite(result.loss_sum) && std::isfinite(result.grad_norm);
  return result;
}

BatchSums Engine::evaluate(const data::MicroBatch& batch) {
  if (batch.num_targets() == 0) return {};
  const c10::AutoGradMode no_autograd(false);
  const model::DecoderInputs inputs = decoder_.make_inputs(batch, options_.device);
  const model::RunMode mode{.compute = options_.compute, .loss = options_.loss};
  const at::Tensor hidden = forward(inputs, mode, nullptr, nullptr);
  const auto out =
      decoder_.head_forward(head().weights_only(), embedding().weights_only(), hidden, inputs, mode);
  BatchSums result{.loss = out.loss_sum.item<double>()};
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
  const at::Tensor hidden = forward(inputs, mode, nullptr, nullptr);
  return decoder_.head_logits(head().weights_only(), embedding().weights_only(), hidden, mode);
}

int64_t Engine::num_parameters() const {
  int64_t total = 0;
  for (const ParameterBlock& block : blocks_) total += block.num_parameters();
  return total;
}

}  // namespace sft::engine
