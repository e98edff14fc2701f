// Device tensors over NCCL: collectives on one communication stream, ordered against the computation by
// events; control over another communicator. Built against device_backend.h only.
#include "parallel/backends.h"
#include "parallel/device_backend.h"
#include "parallel/nccl_handle.h"
#include "parallel/tensor_checks.h"
#include "sft/base/activity.h"
#include "sft/base/error.h"

namespace sft::parallel {
namespace {

NcclApi::Type nccl_type(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return NcclApi::Type::kFloat;
    case at::kDouble:
      return NcclApi::Type::kDouble;
    case at::kBFloat16:
      return NcclApi::Type::kBf16;
    case at::kInt:
      return NcclApi::Type::kInt32;
    case at::kLong:
      return NcclApi::Type::kInt64;
    default:
      return NcclApi::Type::kUint8;  // check_tensor lets nothing else through
  }
}

std::size_t count_of(const at::Tensor& tensor) {
  return static_cast<std::size_t>(tensor.numel());
}

class Event {
 public:
  explicit Event(DeviceRuntime& runtime) : runtime_(runtime), event_(runtime.create_event()) {}
  ~Event() { runtime_.destroy_event(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  DeviceRuntime::Event get() const { return event_; }

 private:
  DeviceRuntime& runtime_;
  DeviceRuntime::Event event_;
};

// What outlives the communicator while a Work is held: destroyed after the last of them.
struct Channel {
  Channel(const DeviceBackend& with, int rank, int size, const std::string& id,
          std::chrono::milliseconds deadline)
      : backend(with), handle(*with.nccl, rank, size, id, deadline), stream(with.runtime->create_stream()) {}
  ~Channel() { backend.runtime->destroy_stream(stream); }
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  const DeviceBackend& backend;
  NcclHandle handle;
  DeviceRuntime::Stream stream;
};

class DeviceWork : public Work::State {
 public:
  DeviceWork(std::shared_ptr<Channel> channel, const char* operation, std::vector<at::Tensor> tensors)
      : channel_(std::move(channel)),
        operation_(operation),
        tensors_(std::move(tensors)),
        finished_(*channel_->backend.runtime) {
    channel_->backend.runtime->record(finished_.get(), channel_->stream);
  }
  // The host does not wait, the compute stream does.
  void wait() override {
    channel_->backend.runtime->wait(channel_->backend.runtime->compute_stream(), finished_.get());
    channel_->handle.check(operation_);
    tensors_.clear();
  }
  bool done() override {
    channel_->handle.check(operation_);
    return channel_->backend.runtime->happened(finished_.get());
  }

 private:
  std::shared_ptr<Channel> channel_;
  const char* operation_;
  std::vector<at::Tensor> tensors_;  // their memory must not be given to another tensor before this has ended
  Event finished_;
};

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> control, const DeviceBackend& backend,
                   std::chrono::milliseconds deadline)
      : control_(std::move(control)), backend_(backend), deadline_(deadline) {
    std::string id;
    if (rank() == 0) {
      const NcclApi::Result made = backend_.nccl->make_id(id);
      if (made.status != NcclApi::Status::kOk)
        base::fail(base::ExitCode::kInternal, "NCCL unique id failed: {}", made.text);
    }
    id = control_->broadcast_bytes(id, 0);
    channel_ = std::make_shared<Channel>(backend_, rank(), size(), id, deadline_);
  }

  int rank() const override { return control_->rank(); }
  int size() const override { return control_->size(); }
  const char* name() const override { return "nccl"; }

  void check() override { channel_->handle.check("collective"); }

  Work all_reduce(const at::Tensor& tensor, ReduceOp op) override {
    check_tensor("all_reduce", tensor, backend_.runtime->device_type());
    return launch("all_reduce", {tensor}, [&](NcclApi::Comm comm) {
      return backend_.nccl->all_reduce(tensor.data_ptr(), count_of(tensor), nccl_type(tensor), op, comm,
                                       channel_->stream);
    });
  }
  Work reduce_scatter(const at::Tensor& output, const at::Tensor& input) override {
    check_parts("reduce_scatter", input, output, size(), backend_.runtime->device_type());
    return launch("reduce_scatter", {output, input}, [&](NcclApi::Comm comm) {
      return backend_.nccl->reduce_scatter(output.data_ptr(), input.data_ptr(), count_of(output),
                                           nccl_type(output), comm, channel_->stream);
    });
  }
  Work all_gather(const at::Tensor& output, const at::Tensor& input) override {
    check_parts("all_gather", output, input, size(), backend_.runtime->device_type());
    return launch("all_gather", {output, input}, [&](NcclApi::Comm comm) {
      return backend_.nccl->all_gather(output.data_ptr(), input.data_ptr(), count_of(input), nccl_type(input),
                                       comm, channel_->stream);
    });
  }
  Work broadcast(const at::Tensor& tensor, int root) override {
    check_tensor("broadcast", tensor, backend_.runtime->device_type());
    check_root("broadcast", root, size());
    return launch("broadcast", {tensor}, [&](NcclApi::Comm comm) {
      return backend_.nccl->broadcast(tensor.data_ptr(), count_of(tensor), nccl_type(tensor), root, comm,
                                      channel_->stream);
    });
  }

  void barrier() override { control_->barrier(); }
  void all_reduce(std::span<int64_t> values, ReduceOp op) override { control_->all_reduce(values, op); }
  void all_reduce(std::span<double> values, ReduceOp op) override { control_->all_reduce(values, op); }
  std::vector<std::string> all_gather_bytes(std::string_view bytes) override {
    return control_->all_gather_bytes(bytes);
  }
  std::string broadcast_bytes(std::string_view bytes, int root) override {
    return control_->broadcast_bytes(bytes, root);
  }
  std::unique_ptr<PendingSum> start_sum(int64_t value) override { return control_->start_sum(value); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    return std::make_unique<NcclCommunicator>(control_->split(color, key), backend_, deadline_);
  }

 private:
  // The communication stream starts after what the compute stream has been given so far.
  Work launch(const char* operation, std::vector<at::Tensor> tensors, const NcclHandle::Call& call) {
    if (tensors.front().numel() == 0) return {};
    DeviceRuntime& runtime = *backend_.runtime;
    const Event ready(runtime);
    runtime.record(ready.get(), runtime.compute_stream());
    runtime.wait(channel_->stream, ready.get());
    const activity::Collective inside(activity::Plane::kData, operation);
    channel_->handle.run(operation, call);
    return Work(std::make_unique<DeviceWork>(channel_, operation, std::move(tensors)));
  }

  std::unique_ptr<Communicator> control_;
  const DeviceBackend& backend_;
  std::chrono::milliseconds deadline_;
  std::shared_ptr<Channel> channel_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> control,
                                                     const DeviceBackend& backend,
                                                     std::chrono::milliseconds deadline) {
  return std::make_unique<NcclCommunicator>(std::move(control), backend, deadline);
}

}  // namespace sft::parallel
