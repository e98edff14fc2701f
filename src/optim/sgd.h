// Stochastic gradient descent, as transformers makes torch.optim.SGD for optim = sgd: optim_args may hold momentum,
// dampening and nesterov.
#pragma once

#include <memory>
#include <vector>

#include "sft/optim/optimizer.h"

namespace sft::optim {

struct SgdUpdate {
  double learning_rate, weight_decay, grad_scale;
  double momentum = 0.0, dampening = 0.0;
  bool nesterov = false, first = false;  // first: the buffer becomes the gradient
};

// momentum_buffer: undefined without momentum.
void sgd_on_cpu(const SgdUpdate& update, const FlatRange& range, const at::Tensor& momentum_buffer);
// Any device, over at:: operations.
void sgd_by_torch(const SgdUpdate& update, const FlatRange& range, const at::Tensor& momentum_buffer);

std::unique_ptr<Optimizer> make_sgd(const config::OptimizerOptions& options, std::vector<FlatRange> ranges);

}  // namespace sft::optim
