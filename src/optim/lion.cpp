#include "optim/lion.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>

#include "optim/flat_optimizer.h"

namespace sft::optim {
namespace {

struct LionCoefficients {
  float keep;  // 1 - learning_rate * weight_decay
  float learning_rate, grad_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
};

void update_elements(const LionCoefficients& c, int64_t count, float* __restrict parameter,
                     const float* __restrict gradient, float* __restrict exp_avg) {
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * c.grad_scale;
    const float direction = exp_avg[i] * c.beta1 + g * c.one_minus_beta1;
    const float sign = static_cast<float>(direction > 0.0F) - static_cast<float>(direction < 0.0F);
    parameter[i] = parameter[i] * c.keep - c.learning_rate * sign;
    exp_avg[i] = exp_avg[i] * c.beta2 + g * c.one_minus_beta2;
  }
}

class Lion final : public FlatOptimizer {
 public:
  Lion(const config::OptimizerOptions& options, std::vector<FlatRange> ranges)
      : FlatOptimizer(options, std::move(ranges)) {
    for (std::size_t i = 0; i < ranges_.size(); ++i)
      states_[i] = {{"exp_avg"}, {zeros_for(i)}, {}};
  }

  void step(double learning_rate, double grad_scale) override {
    count_step();
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      const at::Tensor& exp_avg = states_[i].tensors[0];
      for_each_group(ranges_[i], options_.weight_decay, [&](int64_t first, int64_t last, double decay) {
        const auto part = [&](const at::Tensor& t) { return t.narrow(0, first, last - first); };
        const at::Tensor p = part(ranges_[i].parameter), g = part(ranges_[i].gradient), m = part(exp_avg);
        p.is_cpu() ? on_cpu(p, g, m, learning_rate, decay, grad_scale)
                   : by_torch(p, g, m, learning_rate, decay, grad_scale);
      });
    }
  }

 private:
  void on_cpu(const at::Tensor& parameter, const at::Tensor& gradient, const at::Tensor& exp_avg,
              double learning_rate, double decay, double grad_scale) const {
    const LionCoefficients c{.keep = static_cast<float>(1.0 - learning_rate * decay),
                         .learning_rate = static_cast<float>(learning_rate),
                         .grad_scale = static_cast<float>(grad_scale),
                         .beta1 = static_cast<float>(options_.adam_beta1),
                         .one_minus_beta1 = static_cast<float>(1.0 - options_.adam_beta1),
                         .beta2 = static_cast<float>(options_.adam_beta2),
                         .one_minus_beta2 = static_cast<float>(1.0 - options_.adam_beta2)};
    float* const p = parameter.mutable_data_ptr<float>();
    const float* const g = gradient.const_data_ptr<float>();
    float* const m = exp_avg.mutable_data_ptr<float>();
    at::parallel_for(0, parameter.numel(), kGrain, [&](int64_t begin, int64_t end) {
      update_elements(c, end - begin, p + begin, g + begin, m + begin);
    });
  }

  void by_torch(const at::Tensor& parameter, const at::Tensor& gradient, const at::Tensor& exp_avg,
                double learning_rate, double decay, double grad_scale) const {
    if (grad_scale != 1.0) gradient.mul_(grad_scale);
    if (decay != 0.0) parameter.mul_(1.0 - learning_rate * decay);
    parameter.add_(exp_avg.mul(options_.adam_beta1).add_(gradient, 1.0 - options_.adam_beta1).sign_(),
                   -learning_rate);
    exp_avg.mul_(options_.adam_beta2).add_(gradient, 1.0 - options_.adam_beta2);
  }
};

}  // namespace

std::unique_ptr<Optimizer> make_lion(const config::OptimizerOptions& options, std::vector<FlatRange> ranges) {
  return std::make_unique<Lion>(options, std::move(ranges));
}

}  // namespace sft::optim
