// Which tensors a block has, in which order, and where each role is found among them.
#pragma once

#include <array>
#include <vector>

#include "model/families/family.h"
#include "model/tensor_role.h"
#include "sft/model/decoder.h"
#include "sft/ops/ops.h"

namespace sft::model {

inline constexpr int kAbsent = -1;

// Tensors with at least two dimensions first (they take weight decay), in role order; then biases and norms.
struct BlockLayout {
  std::vector<TensorDef> tensors;
  std::array<int, kNumRoles> weight_index, bias_index;  // into tensors, or kAbsent

  int weight(Role role) const { return weight_index[static_cast<std::size_t>(role)]; }
  int bias(Role role) const { return bias_index[static_cast<std::size_t>(role)]; }
  bool has(Role role) const { return weight(role) != kAbsent; }
};

// Blocks 0 (embedding), 1 ... N (layers), N + 1 (head).
std::vector<BlockLayout> make_layouts(const DecoderSpec& spec, const Family& family);

// A block's tensors by role. What is absent, or has no gradient, is an undefined tensor.
class BlockView {
 public:
  BlockView(const BlockLayout& layout, const BlockTensors& tensors, bool transposed_linear)
      : layout_(layout), tensors_(tensors), transposed_(transposed_linear) {}

  bool has(Role role) const { return layout_.has(role); }
  at::Tensor weight(Role role) const { return pick(tensors_.weights, layout_.weight(role)); }
  at::Tensor grad(Role role) const { return pick(tensors_.grads, layout_.weight(role)); }

  ops::LinearWeights linear(Role role) const {
    return {weight(role), pick(tensors_.weights, layout_.bias(role)), transposed_};
  }
  ops::LinearGrads linear_grads(Role role) const {
    return {grad(role), pick(tensors_.grads, layout_.bias(role))};
  }
  ops::NormWeights norm(Role role) const {
    return {weight(role), pick(tensors_.weights, layout_.bias(role))};
  }
  ops::NormWeights norm_grads(Role role) const {
    return {grad(role), pick(tensors_.grads, layout_.bias(role))};
  }

 private:
  static at::Tensor pick(std::span<const at::Tensor> tensors, int index) {
    return index == kAbsent || tensors.empty() ? at::Tensor() : tensors[static_cast<std::size_t>(index)];
  }
  const BlockLayout& layout_;
  BlockTensors tensors_;
  bool transposed_;
};

}  // namespace sft::model
