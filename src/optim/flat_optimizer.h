// What the optimizers share.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "sft/memory/long_lived.h"
#include "sft/optim/optimizer.h"

namespace sft::optim {

inline constexpr int64_t kGrain = 1 << 15;  // elements worth a thread

class FlatOptimizer : public Optimizer {
 public:
  std::vector<RangeState>& states() override { return states_; }
  int64_t step_count() const override { return step_count_; }
  void set_step_count(int64_t count) override { step_count_ = count; }

 protected:
  FlatOptimizer(config::OptimizerOptions options, std::vector<FlatRange> ranges)
      : options_(std::move(options)), ranges_(std::move(ranges)), states_(ranges_.size()) {}

  // One number for each of the range's elements.
  at::Tensor zeros_for(std::size_t range) const {
    return memory::long_lived_zeros(ranges_[range].parameter.numel(), ranges_[range].parameter.options());
  }

  // Counts a step. The first one begins by writing the zeros of zeros_for(): were they read first, the system
  // would give every page twice, the second time with an interrupt to all cores.
  void count_step() {
    if (step_count_++ > 0) return;
    for (const RangeState& state : states_) {
      for (const at::Tensor& numbers : state.tensors) numbers.zero_();
    }
  }

  config::OptimizerOptions options_;
  std::vector<FlatRange> ranges_;
  std::vector<RangeState> states_;
  int64_t step_count_ = 0;
};

// update(first, last, weight_decay) for the range's decayed elements and for the others.
template <typename Update>
void for_each_group(const FlatRange& range, double weight_decay, Update&& update) {
  if (range.num_decayed > 0) update(int64_t{0}, range.num_decayed, weight_decay);
  if (range.num_decayed < range.parameter.numel()) update(range.num_decayed, range.parameter.numel(), 0.0);
}

}  // namespace sft::optim
