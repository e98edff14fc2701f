// Collectives over the ranks of a run.
//
// Data plane: tensors, asynchronous, issued in program order by one communication thread (mpi) or stream (nccl);
// sums are in fixed order, so that every rank gets the same bits and a repeated run too.
// Control plane: a few host numbers or bytes, synchronous, on a channel of their own, callable while data-plane work is under way.
// Every method but rank(), size() and Work is Collective: all ranks call it, in the same order. Errors: Error(kInternal) naming operation,
// peer and MPI or NCCL text.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sft::parallel {

enum class ReduceOp { kSum, kMin, kMax };

// Handle of a running data-plane collective. Move-only; destruction waits.
class Work {
 public:
  struct State {
    virtual ~State() = default;
    virtual void wait() = 0;        // may be called more than once; rethrows the operation's error
    virtual bool done() = 0;
  };
  Work() = default;
  explicit Work(std::unique_ptr<State> state) : state_(std::move(state)) {}
  Work(Work&&) = default;
  Work& operator=(Work&& other);
  ~Work();
  void wait();              // until the tensors may be used (cuda: by the current stream)
  bool done() const;

 private:
  std::unique_ptr<State> state_;
};

// A sum of one integer over ranks that is started now and asked for later, at no cost in between.
class PendingSum {
 public:
  virtual ~PendingSum() = default;
  virtual int64_t get() = 0;  // waits
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual const char* name() const = 0;  // "single" | "mpi" | "nccl"

  // Data plane. Tensors are contiguous, fp32, fp64, bf16, int32, int64 or uint8, on the back end's device, and must stay alive until wait().
  // Any element count, also 0 and above INT_MAX.
  virtual Work all_reduce(const at::Tensor& tensor, ReduceOp op = ReduceOp::kSum) = 0;       // in place
  virtual Work reduce_scatter(const at::Tensor& output, const at::Tensor& input) = 0;        // sum; input [size * n] -> output [n]
  virtual Work all_gather(const at::Tensor& output, const at::Tensor& input) = 0;            // input [n] -> output [size * n]
  virtual Work broadcast(const at::Tensor& tensor, int root) = 0;                            // in place

  // Local, once the device has come to the end of its streams: a collective of the data plane that failed there lets them go on, with
  // whatever it left in its tensors. Throws what wait() would have thrown later.
  virtual void check() {}

  // Control plane.
  virtual void barrier() = 0;
  virtual void all_reduce(std::span<int64_t> values, ReduceOp op = ReduceOp::kSum) = 0;
  virtual void all_reduce(std::span<double> values, ReduceOp op = ReduceOp::kSum) = 0;
  virtual std::vector<std::string> all_gather_bytes(std::string_view bytes) = 0;             // index = rank
  virtual std::string broadcast_bytes(std::string_view bytes, int root) = 0;
  virtual std::unique_ptr<PendingSum> start_sum(int64_t value) = 0;

  // Ranks with the same color form a new communicator, ordered by (key, rank).
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;

  // Conveniences over the above.
  int64_t sum(int64_t value);
  double sum(double value);
  int64_t min(int64_t value);
  int64_t max(int64_t value);
  bool all(bool value);
  // Throws Error(kDiverged) on all ranks, naming `what` and the ranks whose text differs from rank 0's.
  void check_same(std::string_view what, std::string_view text);
};

}  // namespace sft::parallel
