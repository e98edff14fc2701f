#include "optim/adamw.h"

#include <ATen/Parallel.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>

#include <cmath>

#include "optim/flat_optimizer.h"

namespace sft::optim {
namespace {

// Scalars are computed in double and rounded once, as torch does.
struct AdamWCoefficients {
  float keep;  // 1 - learning_rate * weight_decay
  float grad_scale;
  float lerp_weight;
  bool lerp_from_gradient;  // torch's lerp goes from the nearer end
  float beta2, one_minus_beta2;
  float bias_correction2_sqrt, epsilon, step_size;
};

AdamWCoefficients coefficients(const AdamWUpdate& u, double weight_decay) {
  const auto step = static_cast<double>(u.step);
  const double weight = 1.0 - u.beta1;
  const bool from_gradient = std::abs(static_cast<float>(weight)) >= 0.5F;
  return {
      .keep = static_cast<float>(1.0 - u.learning_rate * weight_decay),
      .grad_scale = static_cast<float>(u.grad_scale),
      .lerp_weight = from_gradient ? static_cast<float>(weight) - 1.0F : static_cast<float>(weight),
      .lerp_from_gradient = from_gradient,
      .beta2 = static_cast<float>(u.beta2),
      .one_minus_beta2 = static_cast<float>(1.0 - u.beta2),
      .bias_correction2_sqrt = static_cast<float>(std::sqrt(1.0 - std::pow(u.beta2, step))),
      .epsilon = static_cast<float>(u.epsilon),
      .step_size = static_cast<float>(u.learning_rate / (1.0 - std::pow(u.beta1, step))),
  };
}

void update_elements(const AdamWCoefficients& c, int64_t count, float* __restrict parameter,
                     const float* __restrict gradient, float* __restrict exp_avg,
                     float* __restrict exp_avg_sq) {
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * c.grad_scale;
    const float base = c.lerp_from_gradient ? g : exp_avg[i];
    const float m = base + c.lerp_weight * (g - exp_avg[i]);
    const float v = c.beta2 * exp_avg_sq[i] + c.one_minus_beta2 * g * g;
    const float denominator = std::sqrt(v) / c.bias_correction2_sqrt + c.epsilon;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    parameter[i] = parameter[i] * c.keep - c.step_size * m / denominator;
  }
}

class AdamW final : public FlatOptimizer {
 public:
  AdamW(const config::OptimizerOptions& options, std::vector<FlatRange> ranges)
      : FlatOptimizer(options, std::move(ranges)) {
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      states_[i] = {{"exp_avg", "exp_avg_sq"}, {zeros_for(i), zeros_for(i)}, {}};
    }
  }

  void step(double learning_rate, double grad_scale) override {
    count_step();
    const AdamWUpdate update{
        learning_rate,         options_.adam_beta1, options_.adam_beta2, options_.adam_epsilon,
        options_.weight_decay, grad_scale,          step_count_};
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      const auto apply = ranges_[i].parameter.is_cpu() ? adamw_on_cpu : adamw_by_torch;
      apply(update, ranges_[i], states_[i].tensors[0], states_[i].tensors[1]);
    }
  }
};

}  // namespace

void adamw_on_cpu(const AdamWUpdate& update, const FlatRange& range, at::Tensor& exp_avg,
                  at::Tensor& exp_avg_sq) {
  float* const parameter = range.parameter.mutable_data_ptr<float>();
  const float* const gradient = range.gradient.const_data_ptr<float>();
  float* const m = exp_avg.mutable_data_ptr<float>();
  float* const v = exp_avg_sq.mutable_data_ptr<float>();
  const auto run = [&](int64_t first, int64_t last, double weight_decay) {
    const AdamWCoefficients c = coefficients(update, weight_decay);
    at::parallel_for(first, last, kGrain, [&](int64_t begin, int64_t end) {
      update_elements(c, end - begin, parameter + begin, gradient + begin, m + begin, v + begin);
    });
  };
  run(0, range.num_decayed, update.weight_decay);
  run(range.num_decayed, range.parameter.numel(), 0.0);
}

void adamw_by_torch(const AdamWUpdate& update, const FlatRange& range, at::Tensor& exp_avg,
                    at::Tensor& exp_avg_sq) {
  if (update.grad_scale != 1.0) range.gradient.mul_(update.grad_scale);
  const at::Tensor step = at::full({}, static_cast<double>(update.step), range.parameter.options());
  const auto run = [&](int64_t first, int64_t last, double weight_decay) {
    if (first == last) return;
    const auto part = [&](const at::Tensor& t) { return t.narrow(0, first, last - first); };
    at::_fused_adamw_({part(range.parameter)}, {part(range.gradient)}, {part(exp_avg)}, {part(exp_avg_sq)},
                      {}, {step}, update.learning_rate, update.beta1, update.beta2, weight_decay,
                      update.epsilon,
                      /*amsgrad=*/false, /*maximize=*/false);
  };
  run(0, range.num_decayed, update.weight_decay);
  run(range.num_decayed, range.parameter.numel(), 0.0);
}

std::unique_ptr<Optimizer> make_adamw(const config::OptimizerOptions& options,
                                      std::vector<FlatRange> ranges) {
  return std::make_unique<AdamW>(options, std::move(ranges));
}

}  // namespace sft::optim
