#include "optim/sgd.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <utility>

namespace sft::optim {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements worth a thread

class Sgd final : public Optimizer {
 public:
  Sgd(double weight_decay, std::vector<FlatRange> ranges)
      : weight_decay_(weight_decay), ranges_(std::move(ranges)), states_(ranges_.size()) {}

  void step(double learning_rate, double grad_scale) override {
    ++step_count_;
    for (const FlatRange& range : ranges_) {
      const auto apply = range.parameter.is_cpu() ? sgd_on_cpu : sgd_by_torch;
      apply({learning_rate, weight_decay_, grad_scale}, range);
    }
  }
  std::vector<RangeState>& states() override { return states_; }
  int64_t step_count() const override { return step_count_; }
  void set_step_count(int64_t count) override { step_count_ = count; }

 private:
  double weight_decay_;
  std::vector<FlatRange> ranges_;
  std::vector<RangeState> states_;  // nothing in them
  int64_t step_count_ = 0;
};

}  // namespace

void sgd_on_cpu(const SgdUpdate& update, const FlatRange& range) {
  float* const parameter = range.parameter.mutable_data_ptr<float>();
  const float* const gradient = range.gradient.const_data_ptr<float>();
  const auto learning_rate = static_cast<float>(update.learning_rate);
  const auto grad_scale = static_cast<float>(update.grad_scale);
  const auto run = [&](int64_t first, int64_t last, double weight_decay) {
    const auto decay = static_cast<float>(weight_decay);
    at::parallel_for(first, last, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        parameter[i] -= learning_rate * (gradient[i] * grad_scale + decay * parameter[i]);
      }
    });
  };
  run(0, range.num_decayed, update.weight_decay);
  run(range.num_decayed, range.parameter.numel(), 0.0);
}

void sgd_by_torch(const SgdUpdate& update, const FlatRange& range) {
  if (update.grad_scale != 1.0) range.gradient.mul_(update.grad_scale);
  if (update.weight_decay != 0.0 && range.num_decayed > 0) {
    range.gradient.narrow(0, 0, range.num_decayed)
        .add_(range.parameter.narrow(0, 0, range.num_decayed), update.weight_decay);
  }
  range.parameter.add_(range.gradient, -update.learning_rate);
}

std::unique_ptr<Optimizer> make_sgd(const config::OptimizerOptions& options, std::vector<FlatRange> ranges) {
  return std::make_unique<Sgd>(options.weight_decay, std::move(ranges));
}

}  // namespace sft::optim
