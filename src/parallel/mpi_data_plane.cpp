#include "parallel/mpi_data_plane.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "sft/base/activity.h"

namespace sft::parallel {

MpiDataPlane::MpiDataPlane(MPI_Comm parent, int64_t piece_elements)
    : comm_(MpiComm::duplicate(parent)), rank_(comm_.rank()), size_(comm_.size()), piece_(piece_elements) {}

// Ranks reach a collective at different times. Waiting for the last one inside MPI would take a core from the
// rank's own computation.
void MpiDataPlane::meet(const char* operation) {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Ibarrier(comm_.get(), &request), operation);
  wait_politely(&request, operation);
}

MPI_Op MpiDataPlane::mpi_op(const ElementType& type, ReduceOp op) const {
  if (type.is_bf16) return bf16_ops_.get(op);
  return op == ReduceOp::kSum ? MPI_SUM : op == ReduceOp::kMin ? MPI_MIN : MPI_MAX;
}

// One step around the ring: to the next rank, from the one before.
void MpiDataPlane::shift(const void* send, void* receive, int count, MPI_Datatype type,
                         const char* operation) {
  constexpr int kTag = 0;
  check_mpi(MPI_Sendrecv(send, count, type, (rank_ + 1) % size_, kTag, receive, count, type,
                         (rank_ + size_ - 1) % size_, kTag, comm_.get(), MPI_STATUS_IGNORE),
            operation);
}

void MpiDataPlane::all_reduce(std::byte* data, int64_t count, const ElementType& type, ReduceOp op) {
  const activity::Collective inside(activity::Plane::kData, "all_reduce");
  meet("all_reduce (MPI_Ibarrier)");
  for_each_piece(count, piece_, [&](int64_t offset, int n) {
    check_mpi(
        MPI_Allreduce(MPI_IN_PLACE, data + offset * type.bytes, n, type.mpi, mpi_op(type, op), comm_.get()),
        "all_reduce (MPI_Allreduce)");
  });
}

// A ring: the partial sum of part p starts at rank p+1 and takes in one rank's values per step, so its order
// is fixed. (MPI_Reduce_scatter_block was three times slower and cannot be cut into pieces.)
void MpiDataPlane::reduce_scatter(std::byte* output, const std::byte* input, int64_t n,
                                  const ElementType& type) {
  const activity::Collective inside(activity::Plane::kData, "reduce_scatter");
  meet("reduce_scatter (MPI_Ibarrier)");
  const auto buffer_bytes = static_cast<std::size_t>(std::min(n, piece_) * type.bytes);
  if (partial_.size() < buffer_bytes) {
    partial_.resize(buffer_bytes);
    received_.resize(buffer_bytes);
  }
  for_each_piece(n, piece_, [&](int64_t offset, int count) {
    const auto part = [&](int r) { return input + (((r + 2 * size_) % size_) * n + offset) * type.bytes; };
    std::byte* const result = output + offset * type.bytes;
    const auto bytes = static_cast<std::size_t>(count * type.bytes);
    const std::byte* send = part(rank_ - 1);
    if (result != part(rank_)) std::memcpy(result, part(rank_), bytes);
    for (int step = 0; step < size_ - 1; ++step) {
      const bool last = step == size_ - 2;
      shift(send, received_.data(), count, type.mpi, "reduce_scatter (MPI_Sendrecv)");
      const void* in = last ? received_.data() : part(rank_ - step - 2);
      void* inout = last ? result : received_.data();
      check_mpi(MPI_Reduce_local(in, inout, count, type.mpi, mpi_op(type, ReduceOp::kSum)),
                "reduce_scatter (MPI_Reduce_local)");
      std::swap(partial_, received_);
      send = partial_.data();
    }
  });
}

void MpiDataPlane::all_gather(std::byte* output, const std::byte* input, int64_t n, const ElementType& type) {
  const activity::Collective inside(activity::Plane::kData, "all_gather");
  meet("all_gather (MPI_Ibarrier)");
  for_each_piece(n, piece_, [&](int64_t offset, int count) {
    const auto part = [&](int r) { return output + (((r + size_) % size_) * n + offset) * type.bytes; };
    const std::byte* const own = input + offset * type.bytes;
    if (part(rank_) != own) std::memcpy(part(rank_), own, static_cast<std::size_t>(count * type.bytes));
    for (int step = 0; step < size_ - 1; ++step) {
      shift(part(rank_ - step), part(rank_ - step - 1), count, type.mpi, "all_gather (MPI_Sendrecv)");
    }
  });
}

void MpiDataPlane::broadcast(std::byte* data, int64_t count, const ElementType& type, int root) {
  const activity::Collective inside(activity::Plane::kData, "broadcast");
  meet("broadcast (MPI_Ibarrier)");
  for_each_piece(count, piece_, [&](int64_t offset, int n) {
    check_mpi(MPI_Bcast(data + offset * type.bytes, n, type.mpi, root, comm_.get()), "broadcast (MPI_Bcast)");
  });
}

}  // namespace sft::parallel
