// CPU tensors over MPI: collectives on a communication thread, control from the calling thread.
#include "parallel/backends.h"
#include "parallel/control_plane.h"
#include "parallel/mpi_data_plane.h"
#include "parallel/tensor_checks.h"
#include "parallel/work_queue.h"
#include "sft/base/error.h"

namespace sft::parallel {
namespace {

ElementType element_type(const at::Tensor& tensor) {
  const auto bytes = static_cast<int64_t>(tensor.element_size());
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return {MPI_FLOAT, bytes, false};
    case at::kDouble:
      return {MPI_DOUBLE, bytes, false};
    case at::kBFloat16:
      return {MPI_UINT16_T, bytes, true};
    case at::kInt:
      return {MPI_INT32_T, bytes, false};
    case at::kLong:
      return {MPI_INT64_T, bytes, false};
    default:
      return {MPI_UINT8_T, bytes, false};  // check_tensor lets nothing else through
  }
}

std::byte* bytes_of(const at::Tensor& tensor) {
  return static_cast<std::byte*>(tensor.data_ptr());
}

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(MPI_Comm parent, bool threaded)
      : threaded_(threaded),
        control_(parent),
        data_(std::make_shared<MpiDataPlane>(parent)),
        queue_(threaded) {}

  int rank() const override { return control_.rank(); }
  int size() const override { return control_.size(); }
  const char* name() const override { return "mpi"; }

  // The tasks hold the tensors and the data plane: a queue that is left behind (see WorkQueue) must not lose
  // them.
  Work all_reduce(const at::Tensor& tensor, ReduceOp op) override {
    check_tensor("all_reduce", tensor, c10::DeviceType::CPU);
    return queue_.submit([data = data_, tensor, op] {
      data->all_reduce(bytes_of(tensor), tensor.numel(), element_type(tensor), op);
    });
  }
  Work reduce_scatter(const at::Tensor& output, const at::Tensor& input) override {
    check_parts("reduce_scatter", input, output, size(), c10::DeviceType::CPU);
    return queue_.submit([data = data_, output, input] {
      data->reduce_scatter(bytes_of(output), bytes_of(input), output.numel(), element_type(output));
    });
  }
  Work all_gather(const at::Tensor& output, const at::Tensor& input) override {
    check_parts("all_gather", output, input, size(), c10::DeviceType::CPU);
    return queue_.submit([data = data_, output, input] {
      data->all_gather(bytes_of(output), bytes_of(input), input.numel(), element_type(input));
    });
  }
  Work broadcast(const at::Tensor& tensor, int root) override {
    check_tensor("broadcast", tensor, c10::DeviceType::CPU);
    check_root("broadcast", root, size());
    return queue_.submit([data = data_, tensor, root] {
      data->broadcast(bytes_of(tensor), tensor.numel(), element_type(tensor), root);
    });
  }

  void barrier() override { control_.barrier(); }
  void all_reduce(std::span<int64_t> values, ReduceOp op) override { control_.all_reduce(values, op); }
  void all_reduce(std::span<double> values, ReduceOp op) override { control_.all_reduce(values, op); }
  std::vector<std::string> all_gather_bytes(std::string_view bytes) override {
    return control_.all_gather_bytes(bytes);
  }
  std::string broadcast_bytes(std::string_view bytes, int root) override {
    return control_.broadcast_bytes(bytes, root);
  }
  std::unique_ptr<PendingSum> start_sum(int64_t value) override { return control_.start_sum(value); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    if (color < 0) base::fail(base::ExitCode::kInternal, "split: negative color {}", color);
    const MpiComm part = control_.split(color, key);
    return std::make_unique<MpiCommunicator>(part.get(), threaded_);
  }

 private:
  bool threaded_;
  ControlPlane control_;
  std::shared_ptr<MpiDataPlane> data_;
  WorkQueue queue_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(MPI_Comm parent, bool threaded) {
  return std::make_unique<MpiCommunicator>(parent, threaded);
}

}  // namespace sft::parallel
