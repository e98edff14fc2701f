// The synchronous half of a communicator: a few host numbers or bytes, on a channel of their own, from the
// calling thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/mpi_handle.h"
#include "sft/parallel/communicator.h"

namespace sft::parallel {

// All methods are Collective.
class ControlPlane {
 public:
  explicit ControlPlane(MPI_Comm parent);

  int rank() const { return rank_; }
  int size() const { return size_; }
  void barrier();
  void all_reduce(std::span<int64_t> values, ReduceOp op);
  void all_reduce(std::span<double> values, ReduceOp op);
  std::vector<std::string> all_gather_bytes(std::string_view bytes);
  std::string broadcast_bytes(std::string_view bytes, int root);
  std::unique_ptr<PendingSum> start_sum(int64_t value);
  MpiComm split(int color, int key);

 private:
  MpiComm comm_;
  MpiComm sums_;  // start_sum's own: it may be open while comm_ is in use
  int rank_, size_;
};

}  // namespace sft::parallel
