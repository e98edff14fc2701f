// Sums the blocks' gradients over ranks, one block at a time, behind the computation.
#pragma once

#include <vector>

#include "sft/base/timer.h"
#include "sft/engine/parameter_block.h"
#include "sft/parallel/communicator.h"

namespace sft::engine {

class GradientReducer {
 public:
  GradientReducer(parallel::Communicator& comm, base::PhaseTimers& timers) : comm_(comm), timers_(timers) {}

  // Collective. The block's gradient is complete on this rank: start summing it. Nobody may touch it until
  // finish().
  void start(const ParameterBlock& block);
  // Waits for all started sums; the time waited is what communication could not be hidden.
  void finish();

 private:
  parallel::Communicator& comm_;
  base::PhaseTimers& timers_;
  std::vector<parallel::Work> pending_;
};

}  // namespace sft::engine
