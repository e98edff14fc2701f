#include "optim/adafactor.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "optim/flat_optimizer.h"

namespace sft::optim {
namespace {

constexpr double kEpsilon = 1e-30, kClipThreshold = 1.0, kDecayRate = -0.8;

at::Tensor root_mean_square(const at::Tensor& t) {
  return t.norm() / std::sqrt(static_cast<double>(t.numel()));
}

class Adafactor final : public FlatOptimizer {
 public:
  Adafactor(const config::OptimizerOptions& options, std::vector<FlatRange> ranges)
      : FlatOptimizer(options, std::move(ranges)) {
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      for (std::size_t t = 0; t < ranges_[i].tensors.size(); ++t) add_states(i, t);
    }
  }

  void step(double learning_rate, double grad_scale) override {
    ++step_count_;
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      if (grad_scale != 1.0) ranges_[i].gradient.mul_(grad_scale);
      std::size_t next = 0;
      for (const FlatTensor& tensor : ranges_[i].tensors) {
        update_tensor(ranges_[i], tensor, &states_[i].of_tensors[next], learning_rate);
        next += is_factored(tensor) ? 2 : 1;
      }
    }
  }

 private:
  static bool is_factored(const FlatTensor& tensor) { return tensor.shape.size() >= 2; }

  void add_states(std::size_t range, std::size_t index) {
    const std::vector<int64_t>& shape = ranges_[range].tensors[index].shape;
    const auto add = [&](const char* name, std::vector<int64_t> its_shape) {
      at::Tensor values = at::zeros(its_shape, ranges_[range].parameter.options());
      states_[range].of_tensors.push_back({name, index, std::move(its_shape), values.flatten()});
    };
    if (!is_factored(ranges_[range].tensors[index])) return add("exp_avg_sq", shape);
    add("exp_avg_sq_row", {shape.begin(), shape.end() - 1});
    std::vector<int64_t> columns(shape.begin(), shape.end() - 2);
    columns.push_back(shape.back());
    add("exp_avg_sq_col", std::move(columns));
  }

  // state: the tensor's first.
  void update_tensor(const FlatRange& range, const FlatTensor& tensor, const TensorState* state,
              double learning_rate) const {
    const auto view = [&](const at::Tensor& flat) {
      return flat.narrow(0, tensor.offset, tensor.numel()).view(tensor.shape);
    };
    const at::Tensor parameter = view(range.parameter), gradient = view(range.gradient);
    const double beta2 = 1.0 - std::pow(static_cast<double>(step_count_), kDecayRate);
    at::Tensor update = gradient.square().add_(kEpsilon);
    if (is_factored(tensor)) {
      const at::Tensor row = state[0].data.view(state[0].shape), column = state[1].data.view(state[1].shape);
      row.mul_(beta2).add_(update.mean(-1), 1.0 - beta2);
      column.mul_(beta2).add_(update.mean(-2), 1.0 - beta2);
      update = at::mul((row / row.mean(-1, /*keepdim=*/true)).rsqrt_().unsqueeze(-1),
                       column.rsqrt().unsqueeze(-2));
    } else {
      const at::Tensor squares = state[0].data.view(state[0].shape);
      squares.mul_(beta2).add_(update, 1.0 - beta2);
      update = squares.rsqrt();
    }
    update.mul_(gradient);
    update.div_((root_mean_square(update) / kClipThreshold).clamp_min_(1.0));
    if (options_.weight_decay != 0.0 && tensor.offset < range.num_decayed)
      parameter.mul_(1.0 - options_.weight_decay * learning_rate);
    parameter.sub_(update, learning_rate);
  }
};

}  // namespace

std::unique_ptr<Optimizer> make_adafactor(const config::OptimizerOptions& options,
                                          std::vector<FlatRange> ranges) {
  return std::make_unique<Adafactor>(options, std::move(ranges));
}

}  // namespace sft::optim
