// Useful floating-point operations of a training step, and how well they use the machine.
#pragma once

#include <cstdint>

namespace sft::metrics {

// The numbers of a model that its work depends on.
struct ModelWork {
  int64_t block_linear_parameters =
      0;  // weights of all linear layers in all blocks that work on a token (of experts those it is sent to): no
          // embeddings, norms, biases or head
  int64_t head_parameters = 0;                 // hidden size x vocabulary, tied or not
  int64_t num_layers = 0, num_heads = 0, head_dim = 0;  // query heads
  // With adapters: how many of block_linear_parameters are without gradient, and whether the head is.
  int64_t frozen_block_linear_parameters = 0;
  bool head_is_frozen = false;
};

// What a step processed, over all ranks; only real tokens, for padding does not exist.
struct StepWork {
  int64_t num_tokens = 0;
  int64_t num_targets = 0;         // tokens the head and the loss see
  double sum_squared_lengths = 0;  // sum over rows of length^2
};

// Convention: a multiply-add is two operations; backward costs twice the forward; causal attention does the
// lower triangle only; recomputation, softmax, norms, activations, the optimizer and the embedding lookup
// count nothing.
//   linear     (6 * block_linear_parameters - 2 * frozen_block_linear_parameters) * num_tokens
//   head       6 (frozen: 4) * head_parameters * num_targets
//   attention  (QK^T and PV: 2 products * 2 operations, forward and twice backward) * layers * heads *
//   head_dim * sum(length^2) / 2
//            = 6 * layers * heads * head_dim * sum(length^2)
// A sliding window's saving is not taken off.
double training_flops(const ModelWork& model, const StepWork& step);

// Model FLOPs utilisation, 0..1 (Chowdhery et al., "PaLM", 2022): useful operations per second over what the
// machine could do. peak_flops_per_second: of all devices together. 0 when the time or the peak is unknown
// (not positive).
double model_flops_utilisation(double flops, double seconds, double peak_flops_per_second);

// Tokens per second; 0 when no time has passed.
double tokens_per_second(int64_t num_tokens, double seconds);

}  // namespace sft::metrics
