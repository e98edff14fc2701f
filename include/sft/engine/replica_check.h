// Whether what should be the same on all ranks still is: a flipped bit in one rank's memory otherwise spoils a run in silence.
#pragma once

#include <vector>

#include "sft/engine/parameter_block.h"
#include "sft/parallel/communicator.h"

namespace sft::engine {

// Collective. Compares digests of all parameters over the ranks: xxh3 of the bytes on the CPU, sums of the bit patterns on a GPU.
// Error(kDiverged) on all ranks when they differ, naming the ranks in the minority (with two ranks: both) and the first tensor.
void check_replicas(const std::vector<ParameterBlock>& blocks, parallel::Communicator& comm);

}  // namespace sft::engine
