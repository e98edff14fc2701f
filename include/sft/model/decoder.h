// The decoder: Embedding -> DecoderLayer x N -> Head, each a block of named tensors with an explicit forward and backward.
//
// The decoder owns no parameters. The engine owns them, in flat buffers, and hands each call the views of the block it runs.
// Block 0 is the embedding, blocks 1..N the layers, block N + 1 the head. All calls Local.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "sft/data/batch.h"
#include "sft/model/adapter.h"
#include "sft/model/spec.h"
#include "sft/ops/nf4.h"
#include "sft/ops/ops.h"

namespace sft::model {

enum class AdapterPart { kNone, kA, kB, kMagnitude };

struct TensorDef {
  std::string name;                  // as save_pretrained writes it, e.g. "model.layers.0.self_attn.q_proj.weight"
  std::string model_name;            // the same in the files of a whole model; empty: only an adapter has it
  std::vector<std::string> aliases;  // other names it is accepted under when loading
  std::vector<int64_t> shape;
  bool decay = true;                 // takes weight decay: at least two dimensions
  bool trainable = true;             // false: frozen, without gradient
  bool linear = false;               // the weight of a linear in a layer or beside the embeddings: may be held in 4 bits when frozen
  bool routed = false;               // of the experts a token is sent to: num_experts_per_tok of num_experts work on it
  AdapterPart adapter = AdapterPart::kNone;  // otherwise not in the model's files: an adapter's own
  int64_t numel() const;
  std::vector<std::string> names_in_files(const std::string& prefix = {}) const;  // prefix + name, then prefix + each alias
};

// Views of one block, in the order of Decoder::block_tensors(block). `grads` may be empty where no gradient is wanted; the gradient of a
// frozen tensor is undefined. `packed` is empty, or holds in place of an undefined weight its 4-bit form ([out, in] in every family).
// Tensors that lie next to each other in the flat buffer without a gap (q, k, v; gate, up) are multiplied as one.
struct BlockTensors {
  std::span<const at::Tensor> weights;
  std::span<const at::Tensor> grads;
  std::span<const ops::Nf4Tensor> packed = {};
};

// How a micro-batch is run.
struct RunMode {
  ops::ComputeDtype compute = ops::ComputeDtype::kFp32;
  bool training = false;  // dropout on
  uint64_t seed = 0;      // of dropout and noise
  double neftune_alpha = 0.0;  // noise on the input embedding, in training only
  ops::LossOptions loss = {};
};

// cos and sin of every token's angles: [T, rotary_dim / 2], fp32.
struct RopeTables {
  at::Tensor cos, sin;
};

// A micro-batch on the device, with what every layer needs of it (rotary tables). Made once per micro-batch.
struct DecoderInputs {
  at::Tensor input_ids, position_ids;        // int64 [T]
  std::vector<int64_t> cu_seqlens;           // host [R + 1]
  at::Tensor target_positions, target_ids;   // int64 [N]
  std::vector<RopeTables> ropes;             // one per spec().ropes
  std::vector<ops::DropoutRow> dropout_rows; // [R]
};

// What a block's backward needs again. Contents are the block's own business.
struct BlockSaved {
  std::vector<at::Tensor> tensors;
  std::vector<at::Tensor> experts;
  ops::AttentionSaved attention;
};

// What the routers of all layers did with a micro-batch's tokens. The load-balancing loss is a product of two means over layers and
// tokens, so that it and its gradient are known when the last layer's forward is done:
//   E * sum over experts e of (times e was chosen / rows) * (sum of e's probabilities / rows), rows = tokens * layers with experts
// (Fedus et al., "Switch Transformers", 2021, as transformers' load_balancing_loss_func).
struct RouterSums {
  at::Tensor chosen, probability;  // fp64 [E]; undefined until a router adds to them
  int64_t rows = 0;

  at::Tensor loss() const;  // fp64 scalar; 0 without rows
  // [E], fp64: of the loss, by the probabilities of any one token in any one layer.
  at::Tensor gradient() const;
};

class Decoder {
 public:
  virtual ~Decoder() = default;
  // With an adapter: only its tensors and the modules it saves are trainable. Error(kConfig) when it does not fit the model.
  static std::unique_ptr<Decoder> create(const DecoderSpec& spec, const AdapterSpec* adapter = nullptr);

  virtual const DecoderSpec& spec() const = 0;
  int64_t num_layers() const { return spec().num_hidden_layers; }
  int64_t num_blocks() const { return num_layers() + 2; }
  // The model's own tensors, decayed ones first, undecayed after; then an adapter's. A tied head has no tensor for the output embedding:
  // it borrows the embedding's first tensor.
  virtual const std::vector<TensorDef>& block_tensors(int64_t block) const = 0;

  // First values of the block's adapters, from seed and names alone; the model's own weights are in place.
  virtual void initialize_adapters(int64_t block, const BlockTensors& tensors, AdapterInit init, uint64_t seed) const = 0;
  // The block's own weights become those that give the adapted model by themselves.
  virtual void merge_adapters(int64_t block, const BlockTensors& tensors) const = 0;
  // What adapter_config.json names as targets: the last parts of the adapted modules' names, sorted.
  virtual std::vector<std::string> adapted_modules() const = 0;

  virtual DecoderInputs make_inputs(const data::MicroBatch& batch, c10::Device device) const = 0;

  // `saved` null: nothing is kept (evaluation, or recomputed later). Activations x are [T, hidden_size].
  virtual at::Tensor embedding_forward(const BlockTensors& block, const DecoderInputs& in, const RunMode& mode, BlockSaved* saved) const = 0;
  virtual void embedding_backward(const BlockTensors& block, const at::Tensor& grad, const DecoderInputs& in, const RunMode& mode,
                                  BlockSaved& saved) const = 0;
  // A layer with experts adds to `routers` (null: not wanted, as when activations are computed again). router_grad [E]: of the objective,
  // by the probabilities of any one token; undefined: none.
  virtual at::Tensor layer_forward(int64_t layer, const BlockTensors& block, const at::Tensor& x, const DecoderInputs& in,
                                   const RunMode& mode, BlockSaved* saved, RouterSums* routers) const = 0;
  virtual at::Tensor layer_backward(int64_t layer, const BlockTensors& block, const at::Tensor& grad, const DecoderInputs& in,
                                    const RunMode& mode, BlockSaved& saved, const at::Tensor& router_grad) const = 0;

  struct HeadOutput {
    at::Tensor loss_sum;  // fp64 scalar
    at::Tensor token_sums;  // as ops::HeadResult's
    at::Tensor grad;      // [T, hidden_size], of loss_scale * loss_sum; undefined from head_forward
  };
  // `embedding`: views of block 0, used when the output embedding is tied.
  virtual HeadOutput head_forward_backward(const BlockTensors& head, const BlockTensors& embedding, const at::Tensor& x,
                                           const DecoderInputs& in, const RunMode& mode, double loss_scale) const = 0;
  virtual HeadOutput head_forward(const BlockTensors& head, const BlockTensors& embedding, const at::Tensor& x, const DecoderInputs& in,
                                  const RunMode& mode) const = 0;
  // [T, vocab_size] fp32, for tests and for printing a sample.
  virtual at::Tensor head_logits(const BlockTensors& head, const BlockTensors& embedding, const at::Tensor& x, const RunMode& mode) const = 0;
};

}  // namespace sft::model
