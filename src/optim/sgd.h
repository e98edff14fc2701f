// Stochastic gradient descent without momentum, as transformers makes torch.optim.SGD for optim = sgd.
#pragma once

#include <memory>
#include <vector>

#include "sft/optim/optimizer.h"

namespace sft::optim {

struct SgdUpdate {
  double learning_rate, weight_decay, grad_scale;
};

void sgd_on_cpu(const SgdUpdate& update, const FlatRange& range);
// Any device, over at:: operations.
void sgd_by_torch(const SgdUpdate& update, const FlatRange& range);

std::unique_ptr<Optimizer> make_sgd(const config::OptimizerOptions& options, std::vector<FlatRange> ranges);

}  // namespace sft::optim
