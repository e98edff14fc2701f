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
  kMlpOutput = 3
};

// The site with probability 0 when dropout is off.
ops::DropoutSite dropout_site(DropoutKind kind, int64_t layer, double probability, const DecoderInputs& in,
                              const RunMode& mode);

// Local. Views into the layer's weights; lives for one call.
class DecoderLayer {
 public:
  DecoderLayer(const DecoderSpec& spec, int64_t layer, const BlockView& block, const DecoderInputs& in,
               const RunMode& mode)
      : spec_(spec), layer_(layer), block_(block), in_(in), mode_(mode), run_{layer, in, mode} {}

  at::Tensor forward(const at::Tensor& x, BlockSaved* saved) const;      // [T, hidden_size] -> the same
  at::Tensor backward(const at::Tensor& grad, BlockSaved& saved) const;  // empties `saved`

 private:
  at::Tensor attend(const at::Tensor& h, BlockSaved* saved) const;
  at::Tensor attend_backward(const at::Tensor& grad, const at::Tensor& h, BlockSaved& saved) const;
  at::Tensor feed_forward(const at::Tensor& h, BlockSaved* saved) const;
  at::Tensor feed_forward_backward(const at::Tensor& grad, const at::Tensor& h, BlockSaved& saved) const;

  at::Tensor normed(Role role, const at::Tensor& x, ops::NormStats* stats) const;
  at::Tensor normed_backward(Role role, const at::Tensor& grad, const at::Tensor& x,
                             const ops::NormStats& stats) const;
  at::Tensor dropped(DropoutKind kind, const at::Tensor& x) const;
  at::Tensor activated(const at::Tensor& up) const;
  at::Tensor activated_backward(const at::Tensor& grad, const at::Tensor& up) const;
  ops::AttentionOptions attention_options() const;
  bool pre_norm() const { return spec_.norm_placement == NormPlacement::kPre; }

  const DecoderSpec& spec_;
  int64_t layer_;
  const BlockView& block_;
  const DecoderInputs& in_;
  const RunMode& mode_;
  LinearRun run_;
};

}  // namespace sft::model
