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
struct FlatTensor {
  int64_t offset = 0;  // elements into the range
  std::vector<int64_t> shape;
  bool is_embedding = false;  // a table that is looked up
  int64_t numel() const;
};
struct FlatRange {
  at::Tensor parameter, gradient;  // 1-D, same size, same device
  int64_t num_decayed = 0;
  std::vector<FlatTensor> tensors = {};  // what lies in it; for optimizers that see tensors as wholes
};

// State of one of a range's tensors, of a shape of its own.
struct TensorState {
  std::string name;        // "exp_avg_sq_row", ...
  std::size_t tensor = 0;  // index into FlatRange::tensors
  std::vector<int64_t> shape;
  at::Tensor data;         // 1-D fp32
};
// State that belongs to a range; what a checkpoint stores under `<state name>.<tensor name>`.
struct RangeState {
  // Element for element.
  std::vector<std::string> names;   // "exp_avg", "exp_avg_sq", ...
  std::vector<at::Tensor> tensors;  // 1-D fp32, as long as the range
  std::vector<TensorState> of_tensors = {};
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // Local. The ranges' tensors are shared with the caller. Error(kConfig) for an unknown name or wrong optim_args.
  // warmup_steps: for optimizers that warm up by themselves.
  static std::unique_ptr<Optimizer> create(const config::OptimizerOptions& options, std::vector<FlatRange> ranges,
                                           int64_t warmup_steps = 0);

  // Local. One update with gradients multiplied by grad_scale (the clip factor) on the fly. step_count counts updates made, from 1 in the first.
  virtual void step(double learning_rate, double grad_scale) = 0;
  virtual std::vector<RangeState>& states() = 0;  // one per range
  virtual int64_t step_count() const = 0;         // updates made; skipped steps do not count
  virtual void set_step_count(int64_t count) = 0;

  // Local. Between these two the parameters are those to evaluate and to save: an average, for optimizers that keep one, and what
  // training goes on with is then among the states. Leaving puts that back, bit for bit. Others do nothing. No step in between.
  virtual void enter_evaluation() {}
  virtual void leave_evaluation() {}
  // Numbers that belong to the state, for the checkpoint. set_scalars: Error(kInvalidData) when they are not as many.
  virtual std::vector<double> scalars() const { return {}; }
  virtual void set_scalars(const std::vector<double>& values);
};

// Holds the parameters at the point to evaluate and to save.
class AtEvaluationPoint {
 public:
  explicit AtEvaluationPoint(Optimizer& optimizer) : optimizer_(optimizer) { optimizer_.enter_evaluation(); }
  ~AtEvaluationPoint() { optimizer_.leave_evaluation(); }
  AtEvaluationPoint(const AtEvaluationPoint&) = delete;
  AtEvaluationPoint& operator=(const AtEvaluationPoint&) = delete;

 private:
  Optimizer& optimizer_;
};

// Local. torch.nn.utils.clip_grad_norm_: min(1, max_norm / (norm + 1e-6)); 1 when max_norm is 0.
double clip_factor(double grad_norm, double max_grad_norm);

}  // namespace sft::optim
