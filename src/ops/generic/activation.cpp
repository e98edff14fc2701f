#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/threshold_backward.h>

#include "ops/generic/generic.h"
#include "sft/base/error.h"

namespace sft::ops::generic {
namespace {

struct GateUp {
  at::Tensor gate, up;
};
GateUp halves(const at::Tensor& gate_up) {
  const int64_t width = gate_up.size(1) / 2;
  return {gate_up.narrow(1, 0, width), gate_up.narrow(1, width, width)};
}

}  // namespace

at::Tensor activation_forward(Activation kind, const at::Tensor& x) {
  switch (kind) {
    case Activation::kRelu:
      return at::relu(x);
    case Activation::kGelu:
      return at::gelu(x, "none");
    case Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case Activation::kSilu:
      return at::silu(x);
  }
  base::fail(base::ExitCode::kInternal, "activation_forward: unknown activation {}", static_cast<int>(kind));
}

at::Tensor activation_backward(Activation kind, const at::Tensor& grad_y, const at::Tensor& x) {
  switch (kind) {
    case Activation::kRelu:
      return at::threshold_backward(grad_y, x, 0);
    case Activation::kGelu:
      return at::gelu_backward(grad_y, x, "none");
    case Activation::kGeluTanh:
      return at::gelu_backward(grad_y, x, "tanh");
    case Activation::kSilu:
      return at::silu_backward(grad_y, x);
  }
  base::fail(base::ExitCode::kInternal, "activation_backward: unknown activation {}", static_cast<int>(kind));
}

at::Tensor gated_activation_forward(Activation kind, const at::Tensor& gate_up) {
  const auto [gate, up] = halves(gate_up);
  return generic::activation_forward(kind, gate).mul_(up);
}

at::Tensor gated_activation_backward(Activation kind, const at::Tensor& grad_y, const at::Tensor& gate_up) {
  const auto [gate, up] = halves(gate_up);
  const at::Tensor grad_up = grad_y * generic::activation_forward(kind, gate);
  return at::cat({generic::activation_backward(kind, grad_y * up, gate), grad_up}, 1);
}

}  // namespace sft::ops::generic
