// MPI reductions for bf16, which MPI does not know: 16-bit values, combined pairwise in fp32 and rounded to
// nearest even.
#pragma once

#include <mpi.h>

#include <cstdint>

#include "sft/parallel/communicator.h"

namespace sft::parallel {

// inout[i] = in[i] op inout[i]; the bits of a bf16 each.
void combine_bf16(const uint16_t* in, uint16_t* inout, int64_t count, ReduceOp op);

// Owner of the three MPI operations (on MPI_UINT16_T).
class Bf16Ops {
 public:
  Bf16Ops();
  ~Bf16Ops();
  Bf16Ops(const Bf16Ops&) = delete;
  Bf16Ops& operator=(const Bf16Ops&) = delete;
  MPI_Op get(ReduceOp op) const { return ops_[static_cast<int>(op)]; }

 private:
  MPI_Op ops_[3] = {MPI_OP_NULL, MPI_OP_NULL, MPI_OP_NULL};
};

}  // namespace sft::parallel
