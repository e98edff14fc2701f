#include "sft/engine/gradient_reducer.h"

namespace sft::engine {

void GradientReducer::start(const ParameterBlock& block) {
  if (comm_.size() > 1) pending_.push_back(comm_.all_reduce(block.gradients()));
}

void GradientReducer::finish() {
  const auto timed = timers_.scope(base::Phase::kCommunication);
  for (parallel::Work& work : pending_) work.wait();
  pending_.clear();
}

}  // namespace sft::engine
