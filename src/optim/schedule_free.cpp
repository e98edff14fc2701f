#include "optim/schedule_free.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>

#include "optim/flat_optimizer.h"
#include "optim/option_kwargs.h"
#include "sft/base/error.h"

namespace sft::optim {
namespace {

enum State : std::size_t { kZ, kExpAvgSq, kY };

struct ScheduleFreeCoefficients {
  float grad_scale, beta2, one_minus_beta2, bias_correction2, epsilon, decay;
  float share;  // of z in the average
  float y_step, z_step;
};

// lerp as torch does it: from the nearer end.
inline float lerp(float a, float b, float weight) {
  return std::abs(weight) < 0.5F ? a + weight * (b - a) : b - (b - a) * (1.0F - weight);
}

void update_elements(const ScheduleFreeCoefficients& c, int64_t count, float* __restrict y,
                     const float* __restrict gradient, float* __restrict z, float* __restrict exp_avg_sq) {
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * c.grad_scale;
    const float v = c.beta2 * exp_avg_sq[i] + c.one_minus_beta2 * g * g;
    exp_avg_sq[i] = v;
    const float direction = g / (std::sqrt(v / c.bias_correction2) + c.epsilon) + c.decay * y[i];
    y[i] = lerp(y[i], z[i], c.share) + c.y_step * direction;
    z[i] -= c.z_step * direction;
  }
}

class ScheduleFreeAdamW final : public FlatOptimizer {
 public:
  ScheduleFreeAdamW(const config::OptimizerOptions& options, std::vector<FlatRange> ranges,
                    int64_t warmup_steps)
      : FlatOptimizer(options, std::move(ranges)), warmup_steps_(warmup_steps) {
    if (options.adam_beta1 == 0.0)
      base::fail(base::ExitCode::kConfig, "optim = {} needs adam_beta1 above 0", options.optim);
    OptionKwargs args("optim_args", options.optim, options.optim_args);
    r_ = args.non_negative("r", 0.0);
    weight_lr_power_ = args.non_negative("weight_lr_power", 2.0);
    args.check_nothing_left();
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      states_[i] = {{"z", "exp_avg_sq"}, {zeros_for(i), zeros_for(i)}, {}};
    }
  }

  void step(double learning_rate, double grad_scale) override {
    count_step();
    if (step_count_ == 1) start();
    const double step = static_cast<double>(step_count_);
    const double warmup = static_cast<double>(warmup_steps_);
    const double rate = learning_rate * (step <= warmup ? step / warmup : 1.0);
    largest_rate_ = std::max(rate, largest_rate_);
    const double weight = std::pow(step, r_) * std::pow(largest_rate_, weight_lr_power_);
    weight_sum_ += weight;
    const double share = weight_sum_ > 0 ? weight / weight_sum_ : 0.0;
    const double y_rate = rate * (options_.adam_beta1 * (1.0 - share) - 1.0);
    const double correction = 1.0 - std::pow(options_.adam_beta2, step);
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      for_each_group(ranges_[i], options_.weight_decay, [&](int64_t first, int64_t last, double decay) {
        const auto part = [&](const at::Tensor& t) { return t.narrow(0, first, last - first); };
        const Parts p{part(ranges_[i].parameter), part(ranges_[i].gradient), part(states_[i].tensors[kZ]),
                      part(states_[i].tensors[kExpAvgSq])};
        if (p.y.is_cpu()) {
          on_cpu(p, {static_cast<float>(grad_scale), static_cast<float>(options_.adam_beta2),
                     static_cast<float>(1.0 - options_.adam_beta2), static_cast<float>(correction),
                     static_cast<float>(options_.adam_epsilon), static_cast<float>(decay),
                     static_cast<float>(share), static_cast<float>(y_rate), static_cast<float>(rate)});
        } else {
          by_torch(p, grad_scale, correction, decay, share, y_rate, rate);
        }
      });
    }
  }

  void enter_evaluation() override {
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      const at::Tensor& parameter = ranges_[i].parameter;
      states_[i].names.emplace_back("y");
      states_[i].tensors.push_back(parameter.clone());
      if (step_count_ > 0) parameter.lerp_(states_[i].tensors[kZ], 1.0 - 1.0 / options_.adam_beta1);
    }
  }
  void leave_evaluation() override {
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      ranges_[i].parameter.copy_(states_[i].tensors[kY]);
      states_[i].names.pop_back();
      states_[i].tensors.pop_back();
    }
  }

  std::vector<double> scalars() const override { return {largest_rate_, weight_sum_}; }
  void set_scalars(const std::vector<double>& values) override {
    if (values.size() != 2)
      base::fail(base::ExitCode::kInvalidData, "the checkpoint's optimizer_scalars are {} numbers, not 2",
                 values.size());
    largest_rate_ = values[0];
    weight_sum_ = values[1];
  }

 private:
  struct Parts {
    at::Tensor y, gradient, z, exp_avg_sq;
  };

  void start() {
    for (std::size_t i = 0; i < ranges_.size(); ++i) states_[i].tensors[kZ].copy_(ranges_[i].parameter);
  }

  static void on_cpu(const Parts& parts, const ScheduleFreeCoefficients& c) {
    float* const y = parts.y.mutable_data_ptr<float>();
    const float* const g = parts.gradient.const_data_ptr<float>();
    float* const z = parts.z.mutable_data_ptr<float>();
    float* const v = parts.exp_avg_sq.mutable_data_ptr<float>();
    at::parallel_for(0, parts.y.numel(), kGrain, [&](int64_t begin, int64_t end) {
      update_elements(c, end - begin, y + begin, g + begin, z + begin, v + begin);
    });
  }

  void by_torch(const Parts& parts, double grad_scale, double correction, double decay, double share,
                double y_rate, double rate) const {
    const auto& [y, gradient, z, exp_avg_sq] = parts;
    if (grad_scale != 1.0) gradient.mul_(grad_scale);
    exp_avg_sq.mul_(options_.adam_beta2).addcmul_(gradient, gradient, 1.0 - options_.adam_beta2);
    gradient.div_(exp_avg_sq.div(correction).sqrt_().add_(options_.adam_epsilon));
    if (decay != 0.0) gradient.add_(y, decay);
    y.lerp_(z, share).add_(gradient, y_rate);
    z.sub_(gradient, rate);
  }

  int64_t warmup_steps_;
  double r_ = 0.0, weight_lr_power_ = 2.0;
  double largest_rate_ = -1.0, weight_sum_ = 0.0;
};

}  // namespace

std::unique_ptr<Optimizer> make_schedule_free_adamw(const config::OptimizerOptions& options,
                                                    std::vector<FlatRange> ranges, int64_t warmup_steps) {
  return std::make_unique<ScheduleFreeAdamW>(options, std::move(ranges), warmup_steps);
}

}  // namespace sft::optim
