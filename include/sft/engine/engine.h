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
  uint64_t seed = 42;                   // of dropout
  c10::Device device = c10::kCPU;
};

struct StepMetrics {
  double loss_sum = 0;   // cross-entropy summed over all targets of all ranks
  double grad_norm = 0;  // L2 norm of the global gradient, before clipping
  bool finite = true;    // both of the above
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
  // block order). Adds the gradient of loss_scale * (sum of cross-entropy) to the gradient buffers. A
  // micro-batch without targets computes nothing.
  void forward_backward(const data::MicroBatch& batch, double loss_scale, bool last_of_window);
  // Waits until the gradients are the sums over all ranks.
  void finish_reduction();
  // Collective: one reduction. Sums of the window since zero_grad().
  StepMetrics metrics();

  // Local. Sum of cross-entropy of the micro-batch, no dropout.
  double evaluate(const data::MicroBatch& batch);
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
  const ParameterBlock& head() const { return blocks_.back(); }
  const ParameterBlock& embedding() const { return blocks_.front(); }

  const model::Decoder& decoder_;
  EngineOptions options_;
  parallel::Communicator& comm_;
  base::PhaseTimers& timers_;
  std::vector<ParameterBlock> blocks_;
  GradientReducer reducer_;
  at::Tensor loss_sum_;  // fp64 scalar on the device, of this rank's window
};

}  // namespace sft::engine
