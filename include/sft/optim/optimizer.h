// Optimizers on flat ranges, and gradient clipping.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sft/config/options.h"

namespace sft::optim {

// One flat fp32 buffer to update: the first `num_decayed` elements take weight decay, the others do not. Gaps between tensors are zero in
// parameter and gradient, and stay zero.
struct FlatRange {
  at::Tensor parameter, gradient;  // 1-D, same size, same device
  int64_t num_decayed = 0;
};

// State that belongs to a range, element for element; what a checkpoint stores under `<state name>.<tensor name>`.
struct RangeState {
  std::vector<std::string> names;   // "exp_avg", "exp_avg_sq", ...
  std::vector<at::Tensor> tensors;  // 1-D fp32, as long as the range
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // Local. The ranges' tensors are shared with the caller. Error(kConfig) for an unknown name.
  static std::unique_ptr<Optimizer> create(const config::OptimizerOptions& options, std::vector<FlatRange> ranges);

  // Local. One update with gradients multiplied by grad_scale (the clip factor) on the fly. step_count counts updates made, from 1 in the first.
  virtual void step(double learning_rate, double grad_scale) = 0;
  virtual std::vector<RangeState>& states() = 0;  // one per range
  virtual int64_t step_count() const = 0;         // updates made; skipped steps do not count
  virtual void set_step_count(int64_t count) = 0;
};

// Local. torch.nn.utils.clip_grad_norm_: min(1, max_norm / (norm + 1e-6)); 1 when max_norm is 0.
double clip_factor(double grad_norm, double max_grad_norm);

}  // namespace sft::optim
