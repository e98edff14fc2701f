// The engine walks the model's list of blocks: forward first to last, backward last to first, each block's
// gradient on its way to the other ranks while the next block computes.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "sft/base/timer.h"
#include "sft/data/batch.h"
#include "sft/engine/gradient_reducer.h"
#include "sft/engine/parameter_block.h"
#include "sft/engine/replica_check.h"
#include "sft/model/decoder.h"
#include "sft/model/weights.h"
#include "sft/parallel/communicator.h"

namespace sft::engine {

// What the weights of frozen linears are held in: frozen_dtype, or 4 bits (sft/ops/nf4.h), their scales plain or nested.
enum class FrozenLinears { kPlain, kNf4, kNf4Nested };

struct EngineOptions {
  ops::ComputeDtype compute = ops::ComputeDtype::kFp32;
  bool gradient_checkpointing = false;  // keep only each layer's input; run its forward again in the backward
  uint64_t seed = 42;                   // of dropout and noise
  double neftune_alpha = 0.0;
  ops::LossOptions loss = {};
  c10::Device device = c10::kCPU;
  c10::ScalarType frozen_dtype = c10::kFloat;  // or bf16: what frozen parameters are held in
  FrozenLinears frozen_linears = FrozenLinears::kPlain;
};

// Sums over the targets of a micro-batch.
struct TokenSums {
  double num_targets = 0;
  double num_right = 0;  // targets the model holds for the likeliest word
  double entropy = 0;    // of its predictions, in nats
};

// Load-balancing losses of micro-batches (model::RouterSums), added up. A micro-batch without tokens has none.
struct AuxLoss {
  double sum = 0, count = 0;
  double mean() const { return count > 0 ? sum / count : 0.0; }
};

struct BatchSums {
  double loss = 0;
  TokenSums tokens = {};  // zero without LossOptions::token_metrics
  AuxLoss aux_loss = {};  // none without experts
};

struct StepMetrics {
  double loss = 0;                       // over all micro-batches of all ranks: loss_scale * (sum of the loss)
  double grad_norm = 0;                  // L2 norm of the global gradient, before clipping
  bool finite = true;                    // both of the above
  std::vector<TokenSums> micro_batches = {};  // over all ranks; empty without LossOptions::token_metrics
  AuxLoss aux_loss = {};                 // over all ranks; none without experts
  AuxLoss counted_aux_loss = {};         // the same of the ranks that count their tokens
};

// Parameters and gradients are replicated over the ranks of `comm` (data parallel). Each decoder block's tensors
// lie in up to two flat buffers: the frozen ones, which have no gradient, no optimizer state and no reduction, and
// the trainable ones. Optimizer, checkpoints, norms and reductions see the trainable ones: blocks().
class Engine {
 public:
  // Local. `decoder`, `comm` and `timers` outlive the engine.
  Engine(const model::Decoder& decoder, const EngineOptions& options, parallel::Communicator& comm,
         base::PhaseTimers& timers);

  // Collective. The model's own tensors, frozen and trainable, from its files; adapters become zero. See load_flat.
  void load_parameters(const model::TensorSource& source);
  // Local, the same values on every rank. After load_parameters.
  void initialize_adapters(model::AdapterInit init, uint64_t seed);
  // Local. The model's own weights, frozen ones too, become those of the adapted model; not for training on.
  void merge_adapters();
  // Collective. Everything that is trained, from a checkpoint's model part or an adapter's file.
  void load_trainable(const model::TensorSource& source);

  // Local.
  void zero_grad();
  // Local, but for the last micro-batch of a window, whose backward starts the reductions (Collective, in
  // block order). Adds the gradient of loss_scale * (sum of the loss) + aux_scale * (load-balancing loss) to the
  // gradient buffers. A micro-batch without targets, or without tokens where aux_scale > 0, computes nothing.
  void forward_backward(const data::MicroBatch& batch, double loss_scale, bool last_of_window,
                        double aux_scale = 0.0);
  // Waits until the gradients are the sums over all ranks.
  void finish_reduction();
  // Collective: one reduction, every rank having run as many micro-batches. Sums of the window since
  // zero_grad(). count_tokens = false leaves this rank out of the token sums and of counted_aux_loss.
  StepMetrics metrics(bool count_tokens = true);

  // Local. Sums of the micro-batch, no dropout.
  BatchSums evaluate(const data::MicroBatch& batch);
  // Local. [T, vocab_size] for one row of token ids.
  at::Tensor logits(const data::MicroBatch& batch);

  const model::Decoder& decoder() const { return decoder_; }
  // What is trained: of each decoder block that has trainable tensors these, in block order.
  const std::vector<ParameterBlock>& blocks() const { return blocks_; }
  const std::vector<ParameterBlock>& frozen_blocks() const { return frozen_blocks_; }
  // Views of all that is the same on every rank between steps: weights, frozen and trainable, under their names.
  std::vector<Replica> replicas() const;
  int64_t num_parameters() const;
  int64_t num_trainable_parameters() const;
  int64_t num_embedding_parameters() const;  // of block 0
  int64_t frozen_bytes() const;              // what frozen parameters take in memory

 private:
  at::Tensor forward(const model::DecoderInputs& inputs, const model::RunMode& mode, model::RouterSums& routers,
                     std::vector<model::BlockSaved>* saved, std::vector<at::Tensor>* layer_inputs);
  // The head's part; [T, hidden_size] gradient.
  at::Tensor head_backward(const at::Tensor& hidden, const model::DecoderInputs& inputs,
                           const model::RunMode& mode, double loss_scale);
  void backward(at::Tensor grad, const model::DecoderInputs& inputs, const model::RunMode& mode,
                const at::Tensor& router_grad, std::vector<model::BlockSaved>& saved,
                std::vector<at::Tensor>& layer_inputs, bool reduce);
  std::vector<TokenSums> local_token_sums() const;
  // A decoder block's tensors in the decoder's order, whichever buffer they lie in.
  struct BlockViews {
    std::vector<at::Tensor> weights, gradients;
    std::vector<ops::Nf4Tensor> packed;    // empty: none
    std::optional<std::size_t> trainable;  // index into blocks_
    model::BlockTensors all() const { return {weights, gradients, packed}; }
    model::BlockTensors weights_only() const { return {weights, {}, packed}; }
  };

  void add_block(const std::vector<model::TensorDef>& tensors);
  bool is_packed(const model::TensorDef& tensor) const {
    return options_.frozen_linears != FrozenLinears::kPlain && tensor.linear && !tensor.trainable;
  }
  void load_packed(int64_t block, const model::TensorSource& source);
  void start_reduction(const BlockViews& views);
  const BlockViews& head() const { return views_.back(); }
  const BlockViews& embedding() const { return views_.front(); }

  const model::Decoder& decoder_;
  EngineOptions options_;
  parallel::Communicator& comm_;
  base::PhaseTimers& timers_;
  std::vector<ParameterBlock> blocks_, frozen_blocks_;
  std::vector<BlockViews> views_;      // one per decoder block
  std::size_t lowest_trainable_ = 0;   // decoder block below which nothing is trained: the backward ends there
  GradientReducer reducer_;
  // Of this rank's window, on the device: fp64 scalars, and per micro-batch fp64 [2] or undefined.
  at::Tensor loss_;
  at::Tensor aux_loss_sum_;
  int64_t num_aux_losses_ = 0;
  std::vector<at::Tensor> token_sums_;
  std::vector<int64_t> num_targets_;  // per micro-batch
};

}  // namespace sft::engine
