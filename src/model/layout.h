// Which tensors a block has, in which order, and where each role is found among them.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/families/family.h"
#include "model/tensor_role.h"
#include "sft/model/adapter.h"
#include "sft/model/decoder.h"
#include "sft/ops/ops.h"

namespace sft::model {

inline constexpr int kAbsent = -1;

// The adapter of one linear.
struct LoraPlace {
  int a = kAbsent, b = kAbsent, magnitude = kAbsent;  // into BlockLayout::tensors
  double scale = 1.0, dropout = 0.0;
  int32_t dropout_site = 0;
};

// Tensors with at least two dimensions first (they take weight decay), in role order but expert by expert;
// then biases and norms; then adapters.
struct BlockLayout {
  std::vector<TensorDef> tensors;
  std::array<int, kNumRoles> weight_index, bias_index;  // into tensors, or kAbsent; of experts, the first's
  int expert_stride = 0;  // from a tensor of an expert to that of the next; 0: they are one tensor
  std::map<Role, LoraPlace> adapters;

  int weight(Role role) const { return weight_index[static_cast<std::size_t>(role)]; }
  int bias(Role role) const { return bias_index[static_cast<std::size_t>(role)]; }
  bool has(Role role) const { return weight(role) != kAbsent; }
};

// As PEFT: a tied embedding that is trained as a whole leaves its partner as it was.
DecoderSpec untied_where_saved(DecoderSpec spec, const Family& family, const AdapterSpec* adapter);

// The input and the output embedding as they are in files that hold both.
std::array<TensorDef, 2> embeddings(const DecoderSpec& spec, const Family& family);

// Blocks 0 (embedding), 1 ... N (layers), N + 1 (head). With an adapter, only its tensors and the modules it
// saves are trainable. Error(kConfig) when it targets nothing, or something that cannot be adapted.
std::vector<BlockLayout> make_layouts(const DecoderSpec& spec, const Family& family,
                                      const AdapterSpec* adapter = nullptr);

// Views of an adapted linear and its adapter.
struct Lora {
  ops::LinearWeights base;                                     // DoRA only
  at::Tensor a, b, magnitude, grad_a, grad_b, grad_magnitude;  // magnitude: DoRA only
  double scale = 1.0, dropout = 0.0;
  int32_t site = 0;
  std::string_view name_a, name_b;
};

// A block's tensors by role. What is absent, or has no gradient, is an undefined tensor.
class BlockView {
 public:
  BlockView(const BlockLayout& layout, const BlockTensors& tensors, bool transposed_linear)
      : layout_(layout), tensors_(tensors), transposed_(transposed_linear) {}

  bool has(Role role) const { return layout_.has(role); }
  // The same block, in which the experts' roles stand for the tensors of this one.
  BlockView expert(int number) const {
    BlockView view = *this;
    view.expert_ = number;
    return view;
  }
  // A weight held in 4 bits comes as fp32 values, made anew by every call.
  at::Tensor weight(Role role) const {
    const int index = place(role);
    const at::Tensor weight = of_expert(pick(tensors_.weights, index));
    if (weight.defined() || index == kAbsent || tensors_.packed.empty()) return weight;
    const at::Tensor values =
        ops::nf4_dequantize(tensors_.packed[static_cast<std::size_t>(index)], at::kFloat);
    return transposed_ ? values.t() : values;
  }
  at::Tensor grad(Role role) const { return of_expert(pick(tensors_.grads, place(role))); }

  ops::LinearWeights linear(Role role) const {
    return {weight(role), widened(pick(tensors_.weights, layout_.bias(role))), transposed_};
  }
  ops::LinearGrads linear_grads(Role role) const {
    return {grad(role), pick(tensors_.grads, layout_.bias(role))};
  }
  ops::NormWeights norm(Role role) const {
    return {widened(weight(role)), widened(pick(tensors_.weights, layout_.bias(role)))};
  }
  ops::NormWeights norm_grads(Role role) const {
    return {grad(role), pick(tensors_.grads, layout_.bias(role))};
  }
  std::optional<Lora> lora(Role role) const;

 private:
  int place(Role role) const {
    const bool of_experts = role == Role::kExpertGate || role == Role::kExpertUp || role == Role::kExpertDown;
    return of_experts && has(role) ? layout_.weight(role) + expert_ * layout_.expert_stride
                                   : layout_.weight(role);
  }
  at::Tensor of_expert(const at::Tensor& t) const {
    return t.defined() && t.dim() == 3 ? t.select(0, expert_) : t;
  }
  static at::Tensor pick(std::span<const at::Tensor> tensors, int index) {
    return index == kAbsent || tensors.empty() ? at::Tensor() : tensors[static_cast<std::size_t>(index)];
  }
  // Norms and biases are applied in fp32, also where frozen weights are held in bf16.
  static at::Tensor widened(const at::Tensor& t) {
    return t.defined() && t.scalar_type() == at::kBFloat16 ? t.to(at::kFloat) : t;
  }
  const BlockLayout& layout_;
  BlockTensors tensors_;
  bool transposed_;
  int expert_ = 0;
};

}  // namespace sft::model
