// Collectives on raw memory over MPI, in pieces; blocking, called by one thread at a time, in the same order
// on all ranks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "parallel/bf16_ops.h"
#include "parallel/mpi_handle.h"
#include "parallel/pieces.h"
#include "sft/parallel/communicator.h"

namespace sft::parallel {

struct ElementType {
  MPI_Datatype mpi;
  int64_t bytes;
  bool is_bf16;
};

class MpiDataPlane {
 public:
  explicit MpiDataPlane(MPI_Comm parent, int64_t piece_elements = kPieceElements);  // Collective

  // Counts are elements; n is one rank's part. In-place use (output within input or the reverse, at this
  // rank's part) is allowed.
  void all_reduce(std::byte* data, int64_t count, const ElementType& type, ReduceOp op);
  void reduce_scatter(std::byte* output, const std::byte* input, int64_t n, const ElementType& type);
  void all_gather(std::byte* output, const std::byte* input, int64_t n, const ElementType& type);
  void broadcast(std::byte* data, int64_t count, const ElementType& type, int root);

 private:
  void meet(const char* operation);
  MPI_Op mpi_op(const ElementType& type, ReduceOp op) const;
  void shift(const void* send, void* receive, int count, MPI_Datatype type, const char* operation);

  MpiComm comm_;
  Bf16Ops bf16_ops_;
  int rank_, size_;
  int64_t piece_;
  std::vector<std::byte> partial_, received_;
};

}  // namespace sft::parallel
