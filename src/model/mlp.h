// An MLP: a layer's, an expert's, or the one that all tokens share in a mixture of experts.
#pragma once

#include <optional>

#include "model/fused_linear.h"
#include "model/layout.h"
#include "model/lora.h"
#include "sft/ops/ops.h"

namespace sft::model {

// Which tensors of the block it consists of. `gate_up` or `gate` present: gated.
struct MlpRoles {
  Role gate, up, down;
  std::optional<Role> gate_up = {};  // one tensor for gate and up
};
inline constexpr MlpRoles kLayerMlp{Role::kGate, Role::kUp, Role::kDown, Role::kGateUp};
inline constexpr MlpRoles kExpertMlp{Role::kExpertGate, Role::kExpertUp, Role::kExpertDown};
inline constexpr MlpRoles kStackedExpertMlp{Role::kExpertGate, Role::kExpertUp, Role::kStackedDown,
                                            Role::kStackedGateUp};
inline constexpr MlpRoles kSharedMlp{Role::kSharedGate, Role::kSharedUp, Role::kSharedDown};

// Local. Lives for one call.
class Mlp {
 public:
  Mlp(const BlockView& block, const MlpRoles& roles, ops::Activation activation, const LinearRun& run)
      : block_(block), roles_(roles), activation_(activation), run_(run) {}

  // x [T, hidden] -> the same. share [T, 1] multiplies the rows of the result, which then has no bias;
  // undefined: by 1. `up` becomes what the backward needs.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& share, at::Tensor& up) const;
  struct Grads {
    at::Tensor x, share;  // share [T, 1]: where there is one
  };
  Grads backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& share,
                 const at::Tensor& up) const;

 private:
  FusedLinear up_linear() const;
  bool is_fused() const { return roles_.gate_up && block_.has(*roles_.gate_up); }
  bool is_gated() const { return is_fused() || block_.has(roles_.gate); }
  at::Tensor activated(const at::Tensor& up) const;
  at::Tensor activated_backward(const at::Tensor& grad, const at::Tensor& up) const;

  BlockView block_;
  MlpRoles roles_;
  ops::Activation activation_;
  const LinearRun& run_;
};

}  // namespace sft::model
