// The engine walks the model's list of blocks: forward first to last, backward last to first, each block's
// gradient on its way to the other ranks while the next block computes.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "sft/base/timer.h"
#include "sft/data/batch.h"
#include "sft/engine/gradient_reducer.h"
#include "sft/engine/parameter_block.h"
#include "sft/model/decoder.h"
#include "sft/model/weights.h"
#include "sft/parallel/communicator.h"

namespace sft::engine {

struct EngineOptions {
  ops::ComputeDtype compute = ops::ComputeDtype::kFp32;
  bool gradient_checkpointing = false;  // keep only each layer's input; run its forward again in the backward
  uint64_t seed = 42;                   // of dropout and noise
  double neftune_alpha = 0.0;
  ops::LossOptions loss = {};
  c10::Device device = c10::kCPU;
};

// Sums over the targets of a micro-batch.
struct TokenSums {
  double num_targets = 0;
  double num_right = 0;  // targets the model holds for the likeliest word
  double entropy = 0;    // of its predictions, in nats
};

struct BatchSums {
  double loss = 0;
  TokenSums tokens = {};  // zero without LossOptions::token_metrics
};

struct StepMetrics {
  double loss_sum = 0;                   // the loss summed over all targets of all ranks
  double grad_norm = 0;                  // L2 norm of the global gradient, before clipping
  bool finite = true;                    // both of the above
  std::vector<TokenSums> micro_batches = {};  // over all ranks; empty without LossOptions::token_metrics
};

// Parameters and gradients are replicated over the ranks of `comm` (data parallel).
class Engine {
 public:
  // Local. `decoder`, `comm` and `timers` outlive the engine.
  Engine(const model::Decoder& decoder, const EngineOptions& options, parallel::Communicator& comm,
         base::PhaseTimers& timers);

  // Collective. See load_flat.
  void load_parameters(const model::TensorSource& source);

  // Local.
  void zero_grad();
  // Local, but for the last micro-batch of a window, whose backward starts the reductions (Collective, in
  // block order). Adds the gradient of loss_scale * (sum of the loss) to the gradient buffers. A
  // micro-batch without targets computes nothing.
  void forward_backward(const data::MicroBatch& batch, double loss_scale, bool last_of_window);
  // Waits until the gradients are the sums over all ranks.
  void finish_reduction();
  // Collective: one reduction, every rank having run as many micro-batches. Sums of the window since
  // zero_grad(). count_tokens = false leaves this rank out of the token sums.
  StepMetrics metrics(bool count_tokens = true);

  // Local. Sums of the micro-batch, no dropout.
  BatchSums evaluate(const data::MicroBatch& batch);
  // Local. [T, vocab_size] for one row of token ids.
  at::Tensor logits(const data::MicroBatch& batch);

  const model::Decoder& decoder() const { return decoder_; }
  const std::vector<ParameterBlock>& blocks() const { return blocks_; }
  int64_t num_parameters() const;

 private:
  at::Tensor forward(const model::DecoderInputs& inputs, const model::RunMode& mode,
                     std::vector<model::BlockSaved>* saved, std::vector<at::Tensor>* layer_inputs);
  void backward(at::Tensor grad, const model::DecoderInputs& inputs, const model::RunMode& mode,
                std::vector<model::BlockSaved>& saved, std::vector<at::Tensor>& layer_inputs, bool reduce);
  std::vector<TokenSums> local_token_sums() const;
  const ParameterBlock& head() const { return blocks_.back(); }
  const ParameterBlock& embedding() const { return blocks_.front(); }

  const model::Decoder& decoder_;
  EngineOptions options_;
  parallel::Communicator& comm_;
  base::PhaseTimers& timers_;
  std::vector<ParameterBlock> blocks_;
  GradientReducer reducer_;
  // Of this rank's window, on the device: fp64 scalar, and per micro-batch fp64 [2] or undefined.
  at::Tensor loss_sum_;
  std::vector<at::Tensor> token_sums_;
  std::vector<int64_t> num_targets_;  // per micro-batch
};

}  // namespace sft::engine
