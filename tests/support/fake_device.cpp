#include "support/fake_device.h"

#include <fmt/core.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "parallel/mpi_data_plane.h"
#include "parallel/work_queue.h"

namespace sft::testing {

using parallel::ElementType;
using parallel::MpiDataPlane;
using parallel::WorkQueue;

namespace {

// One recording of an event. A stream that waits keeps the recording it met, as a later one does not concern
// it.
struct Recording {
  std::mutex mutex;
  std::condition_variable changed;
  bool happened = false;

  void set() {
    const std::lock_guard lock(mutex);
    happened = true;
    changed.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return happened; });
  }
};

struct FakeEvent {
  std::shared_ptr<Recording> last;
};

// A collective NCCL can take back: abort() lets go of a stream that hangs in one.
struct Hang {
  std::mutex mutex;
  std::condition_variable changed;
  bool aborted = false;
};

// Runs what it is given in order, on a thread of its own.
class FakeStream {
 public:
  void submit(std::function<void()> task) { works_.push_back(queue_.submit(std::move(task))); }

 private:
  WorkQueue queue_{/*threaded=*/true};
  std::vector<parallel::Work> works_;  // dropping one would wait for it
};

FakeStream& stream_of(void* stream) {
  return *static_cast<FakeStream*>(stream);
}
FakeEvent& event_of(void* event) {
  return *static_cast<FakeEvent*>(event);
}

ElementType element_type(parallel::NcclApi::Type type) {
  using Type = parallel::NcclApi::Type;
  switch (type) {
    case Type::kFloat:
      return {MPI_FLOAT, 4, false};
    case Type::kDouble:
      return {MPI_DOUBLE, 8, false};
    case Type::kBf16:
      return {MPI_UINT16_T, 2, true};
    case Type::kInt32:
      return {MPI_INT32_T, 4, false};
    case Type::kInt64:
      return {MPI_INT64_T, 8, false};
    case Type::kUint8:
      return {MPI_UINT8_T, 1, false};
  }
  return {MPI_UINT8_T, 1, false};
}

}  // namespace

FakeRuntime::Stream FakeRuntime::create_stream() {
  return new FakeStream;
}
void FakeRuntime::destroy_stream(Stream stream) {
  delete &stream_of(stream);
}
FakeRuntime::Event FakeRuntime::create_event() {
  return new FakeEvent;
}
void FakeRuntime::destroy_event(Event event) {
  delete &event_of(event);
}

void FakeRuntime::record(Event event, Stream stream) {
  auto recording = std::make_shared<Recording>();
  event_of(event).last = recording;
  if (stream == compute_stream()) {
    recording->set();
  } else {
    stream_of(stream).submit([recording] { recording->set(); });
  }
}

void FakeRuntime::wait(Stream stream, Event event) {
  const std::shared_ptr<Recording> recording = event_of(event).last;
  if (recording == nullptr) return;  // never recorded
  if (stream == compute_stream()) {
    recording->wait();
  } else {
    stream_of(stream).submit([recording] { recording->wait(); });
  }
}

bool FakeRuntime::happened(Event event) {
  const std::shared_ptr<Recording> recording = event_of(event).last;
  if (recording == nullptr) return true;
  const std::lock_guard lock(recording->mutex);
  return recording->happened;
}

struct FakeNccl::FakeComm {
  std::shared_ptr<MpiDataPlane> data;
  std::shared_ptr<Hang> hang = std::make_shared<Hang>();
  int looks_until_ready = 3;  // initialisation takes a while
  int looks_until_failed = kNever;
};

FakeNccl::Result FakeNccl::make_id(std::string& id) {
  int world_rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
  id = fmt::format("{:04}{:04}", world_rank, num_ids_++);
  return {};
}

FakeNccl::Result FakeNccl::init(Comm& comm, int rank, int size, const std::string& id) {
  if (refuses_initialisation_) return {Status::kFailed, "unhandled system error"};
  auto made = std::make_unique<FakeComm>();
  if (!initialises_) {
    comm = made.release();
    return {Status::kInProgress, {}};
  }
  const parallel::MpiComm members = parallel::MpiComm::split(MPI_COMM_WORLD, std::stoi(id), rank);
  if (members.size() != size)
    return {Status::kFailed, fmt::format("{} ranks came, not {}", members.size(), size)};
  made->data = std::make_shared<MpiDataPlane>(members.get());
  comm = made.release();
  return {Status::kInProgress, {}};
}

FakeNccl::Result FakeNccl::state(Comm comm) {
  auto& fake = *static_cast<FakeComm*>(comm);
  const auto passes = [](int& looks) { return looks == 0 || (looks != kNever && --looks == 0); };
  if (fake.data == nullptr || !passes(fake.looks_until_ready)) return {Status::kInProgress, {}};
  if (passes(fake.looks_until_failed))
    return {Status::kFailed, "remote process exited or there was a network error"};
  return {};
}

FakeNccl::Result FakeNccl::finalize(Comm comm) {
  ++num_finalised_;
  if (finalises_) return {};
  static_cast<FakeComm*>(comm)->looks_until_ready = kNever;
  return {Status::kInProgress, {}};
}

void FakeNccl::destroy(Comm comm) {
  delete static_cast<FakeComm*>(comm);
}

void FakeNccl::abort(Comm comm) {
  auto* fake = static_cast<FakeComm*>(comm);
  {
    const std::lock_guard lock(fake->hang->mutex);
    fake->hang->aborted = true;
    fake->hang->changed.notify_all();
  }
  ++num_aborted_;
  delete fake;
}

template <typename Operation>
FakeNccl::Result FakeNccl::enqueue(Comm comm, Stream stream, Operation operation) {
  auto& fake = *static_cast<FakeComm*>(comm);
  const int number = num_operations_++;
  if (number == refused_operation_) return {Status::kFailed, "invalid usage"};
  if (number == failing_operation_) {
    stream_of(stream).submit([hang = fake.hang] {
      std::unique_lock lock(hang->mutex);
      hang->changed.wait(lock, [&] { return hang->aborted; });
    });
    fake.looks_until_failed = looks_until_failed_;
  } else {
    stream_of(stream).submit([data = fake.data, operation] { operation(*data); });
  }
  if (number != delayed_operation_) return {};
  fake.looks_until_ready = looks_until_accepted_;
  return {Status::kInProgress, {}};
}

FakeNccl::Result FakeNccl::all_reduce(void* data, std::size_t count, Type type, parallel::ReduceOp op,
                                      Comm comm, Stream stream) {
  return enqueue(comm, stream, [=](MpiDataPlane& plane) {
    plane.all_reduce(static_cast<std::byte*>(data), static_cast<int64_t>(count), element_type(type), op);
  });
}

FakeNccl::Result FakeNccl::reduce_scatter(void* output, const void* input, std::size_t n, Type type,
                                          Comm comm, Stream stream) {
  return enqueue(comm, stream, [=](MpiDataPlane& plane) {
    plane.reduce_scatter(static_cast<std::byte*>(output), static_cast<const std::byte*>(input),
                         static_cast<int64_t>(n), element_type(type));
  });
}

FakeNccl::Result FakeNccl::all_gather(void* output, const void* input, std::size_t n, Type type, Comm comm,
                                      Stream stream) {
  return enqueue(comm, stream, [=](MpiDataPlane& plane) {
    plane.all_gather(static_cast<std::byte*>(output), static_cast<const std::byte*>(input),
                     static_cast<int64_t>(n), element_type(type));
  });
}

FakeNccl::Result FakeNccl::broadcast(void* data, std::size_t count, Type type, int root, Comm comm,
                                     Stream stream) {
  return enqueue(comm, stream, [=](MpiDataPlane& plane) {
    plane.broadcast(static_cast<std::byte*>(data), static_cast<int64_t>(count), element_type(type), root);
  });
}

}  // namespace sft::testing
