#include "optim/sgd.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "optim/flat_optimizer.h"
#include "optim/option_kwargs.h"

namespace sft::optim {
namespace {

struct SgdCoefficients {
  float learning_rate, grad_scale, decay, momentum, keep;  // keep: of the gradient
  bool nesterov;
};

void update_plain(const SgdCoefficients& c, int64_t count, float* __restrict parameter,
                  const float* __restrict gradient) {
  for (int64_t i = 0; i < count; ++i)
    parameter[i] -= c.learning_rate * (gradient[i] * c.grad_scale + c.decay * parameter[i]);
}

void update_with_momentum(const SgdCoefficients& c, int64_t count, float* __restrict parameter,
                          const float* __restrict gradient, float* __restrict buffer) {
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * c.grad_scale + c.decay * parameter[i];
    buffer[i] = c.momentum * buffer[i] + c.keep * g;
    parameter[i] -= c.learning_rate * (c.nesterov ? g + c.momentum * buffer[i] : buffer[i]);
  }
}

class Sgd final : public FlatOptimizer {
 public:
  Sgd(const config::OptimizerOptions& options, std::vector<FlatRange> ranges)
      : FlatOptimizer(options, std::move(ranges)) {
    OptionKwargs args("optim_args", options.optim, options.optim_args);
    momentum_ = args.non_negative("momentum", 0.0);
    dampening_ = args.number("dampening", 0.0);
    nesterov_ = args.boolean("nesterov", false);
    args.check_nothing_left();
    if (nesterov_ && (momentum_ == 0.0 || dampening_ != 0.0))
      args.complain("nesterov needs momentum above 0 and dampening 0");
    if (momentum_ == 0.0) return;
    for (std::size_t i = 0; i < ranges_.size(); ++i)
      states_[i] = {{"momentum_buffer"}, {zeros_for(i)}, {}};
  }

  void step(double learning_rate, double grad_scale) override {
    count_step();
    const SgdUpdate update{learning_rate, options_.weight_decay, grad_scale, momentum_, dampening_,
                           nesterov_,     step_count_ == 1};
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      const auto apply = ranges_[i].parameter.is_cpu() ? sgd_on_cpu : sgd_by_torch;
      apply(update, ranges_[i], momentum_ == 0.0 ? at::Tensor() : states_[i].tensors[0]);
    }
  }

 private:
  double momentum_ = 0.0, dampening_ = 0.0;
  bool nesterov_ = false;
};

}  // namespace

void sgd_on_cpu(const SgdUpdate& update, const FlatRange& range, const at::Tensor& momentum_buffer) {
  float* const parameter = range.parameter.mutable_data_ptr<float>();
  const float* const gradient = range.gradient.const_data_ptr<float>();
  float* const buffer = momentum_buffer.defined() ? momentum_buffer.mutable_data_ptr<float>() : nullptr;
  for_each_group(range, update.weight_decay, [&](int64_t first, int64_t last, double weight_decay) {
    const SgdCoefficients c{.learning_rate = static_cast<float>(update.learning_rate),
                         .grad_scale = static_cast<float>(update.grad_scale),
                         .decay = static_cast<float>(weight_decay),
                         .momentum = static_cast<float>(update.momentum),
                         .keep = update.first ? 1.0F : static_cast<float>(1.0 - update.dampening),
                         .nesterov = update.nesterov};
    at::parallel_for(first, last, kGrain, [&](int64_t begin, int64_t end) {
      if (buffer == nullptr) return update_plain(c, end - begin, parameter + begin, gradient + begin);
      update_with_momentum(c, end - begin, parameter + begin, gradient + begin, buffer + begin);
    });
  });
}

void sgd_by_torch(const SgdUpdate& update, const FlatRange& range, const at::Tensor& momentum_buffer) {
  const at::Tensor& gradient = range.gradient;
  if (update.grad_scale != 1.0) gradient.mul_(update.grad_scale);
  if (update.weight_decay != 0.0 && range.num_decayed > 0) {
    gradient.narrow(0, 0, range.num_decayed)
        .add_(range.parameter.narrow(0, 0, range.num_decayed), update.weight_decay);
  }
  if (momentum_buffer.defined()) {
    momentum_buffer.mul_(update.momentum).add_(gradient, update.first ? 1.0 : 1.0 - update.dampening);
    if (!update.nesterov)
      gradient.copy_(momentum_buffer);
    else
      gradient.add_(momentum_buffer, update.momentum);
  }
  range.parameter.add_(gradient, -update.learning_rate);
}

std::unique_ptr<Optimizer> make_sgd(const config::OptimizerOptions& options, std::vector<FlatRange> ranges) {
  return std::make_unique<Sgd>(options, std::move(ranges));
}

}  // namespace sft::optim
