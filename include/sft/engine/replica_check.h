// Whether what should be the same on all ranks still is: a flipped bit in one rank's memory otherwise spoils a run in silence.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "sft/parallel/communicator.h"

namespace sft::engine {

struct Replica {
  std::string name;
  at::Tensor values;  // contiguous, of any shape and dtype
};

// Collective, with as many replicas of the same names on every rank. Compares digests: xxh3 of the bytes on the CPU, sums of the bit
// patterns on a GPU. Error(kDiverged) on all ranks when they differ, naming the first such tensor and the ranks in the minority
// (with two ranks: both).
void check_replicas(const std::vector<Replica>& replicas, parallel::Communicator& comm);

}  // namespace sft::engine
