// AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) in the arithmetic of torch's
// fused CPU kernel.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "sft/optim/optimizer.h"

namespace sft::optim {

// One update of one range, on float32 data.
struct AdamWUpdate {
  double learning_rate, beta1, beta2, epsilon, weight_decay;
  double grad_scale;
  int64_t step;  // from 1
};

// CPU tensors, one pass over parameter, gradient and both moments. Elementwise: the bits do not depend on the
// number of threads.
void adamw_on_cpu(const AdamWUpdate& update, const FlatRange& range, at::Tensor& exp_avg,
                  at::Tensor& exp_avg_sq);

// Any device, over torch's own fused kernel; a grad_scale other than 1 is applied to the gradient in place.
void adamw_by_torch(const AdamWUpdate& update, const FlatRange& range, at::Tensor& exp_avg,
                    at::Tensor& exp_avg_sq);

std::unique_ptr<Optimizer> make_adamw(const config::OptimizerOptions& options, std::vector<FlatRange> ranges);

}  // namespace sft::optim
