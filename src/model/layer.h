// One decoder layer: attention and MLP, each with its norm, dropout and residual connection.
#pragma once

#include "model/layout.h"
#include "model/lora.h"
#include "sft/model/decoder.h"

namespace sft::model {

// Dropout sites, numbered. The embedding's belongs to layer -1. Numbers are part of what a seed means: do not
// renumber.
enum class DropoutKind : int32_t {
  kEmbedding = 0,
  kAttentionProbabilities = 1,
  kAttentionOutput = 2,
  kMlpOutput = 3,
  kEmbeddingNoise = 4
};

// The site with probability 0 when dropout is off.
ops::DropoutSite dropout_site(DropoutKind kind, int64_t layer, double probability, const DecoderInputs& in,
                              const RunMode& mode);

// The norm's weights as they multiply: 1 + w where the family stores w so.
ops::NormWeights norm_weights(const DecoderSpec& spec, const BlockView& block, Role role);

struct Sublayer;  // what attention and MLP have in common

// Local. Views into the layer's weights; lives for one call.
class DecoderLayer {
 public:
  DecoderLayer(const DecoderSpec& spec, int64_t layer, const BlockView& block, const DecoderInputs& in,
               const RunMode& mode, RouterSums* routers = nullptr, const at::Tensor& router_grad = {})
      : spec_(spec),
        layer_(layer),
        block_(block),
        in_(in),
        mode_(mode),
        run_{layer, in, mode},
        routers_(routers),
        router_grad_(router_grad) {}

  at::Tensor forward(const at::Tensor& x, BlockSaved* saved) const;      // [T, hidden_size] -> the same
  at::Tensor backward(const at::Tensor& grad, BlockSaved& saved) const;  // empties `saved`

 private:
  at::Tensor forward_in_turn(const at::Tensor& x, BlockSaved* saved) const;
  at::Tensor forward_parallel(const at::Tensor& x, BlockSaved* saved) const;
  at::Tensor backward_in_turn(const at::Tensor& grad, BlockSaved& saved) const;
  at::Tensor backward_parallel(const at::Tensor& grad, BlockSaved& saved) const;

  // A sublayer from its (normed) input to what is added to the residual, and back.
  at::Tensor run(const Sublayer& part, const at::Tensor& h, BlockSaved* saved) const;
  at::Tensor run_backward(const Sublayer& part, const at::Tensor& grad, const at::Tensor& h,
                          BlockSaved& saved) const;
  at::Tensor attend(const at::Tensor& h, BlockSaved* saved) const;
  at::Tensor attend_backward(const at::Tensor& grad, const at::Tensor& h, BlockSaved& saved) const;
  at::Tensor feed_forward(const at::Tensor& h, BlockSaved* saved) const;
  at::Tensor feed_forward_backward(const at::Tensor& grad, const at::Tensor& h, BlockSaved& saved) const;

  // Queries and keys of qkv [T, q | k | v], in place.
  void norm_queries_and_keys(const at::Tensor& qkv, BlockSaved* saved) const;
  void norm_queries_and_keys_backward(const at::Tensor& grad_qkv, BlockSaved& saved) const;
  void rotate(at::Tensor& x, bool inverse) const;

  at::Tensor normed(Role role, const at::Tensor& x, ops::NormStats* stats) const;
  at::Tensor normed_sum(Role role, at::Tensor& x, const at::Tensor& residual, ops::NormStats* stats) const;
  at::Tensor normed_backward(Role role, const at::Tensor& grad, const at::Tensor& x,
                             const ops::NormStats& stats, const at::Tensor& residual_grad = {}) const;
  ops::AttentionOptions attention_options() const;
  const LayerSpec& kind() const { return spec_.layers[static_cast<std::size_t>(layer_)]; }
  bool norms_inputs() const {
    return spec_.norm_placement == NormPlacement::kPre || spec_.norm_placement == NormPlacement::kSandwich;
  }
  bool norms_outputs() const {
    return spec_.norm_placement == NormPlacement::kOutput || spec_.norm_placement == NormPlacement::kSandwich;
  }
  bool norms_sums() const { return spec_.norm_placement == NormPlacement::kPost; }

  const DecoderSpec& spec_;
  int64_t layer_;
  const BlockView& block_;
  const DecoderInputs& in_;
  const RunMode& mode_;
  LinearRun run_;
  RouterSums* routers_;     // of the forward
  at::Tensor router_grad_;  // of the backward
};

}  // namespace sft::model
