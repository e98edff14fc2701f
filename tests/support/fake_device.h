// Test doubles of a GPU and of NCCL: streams are threads, memory is host memory, collectives go over MPI.
//
// The compute stream is the calling thread itself, so "the compute stream waits" means that the caller waits.
// Communication streams run on their own, and a missing event shows as wrong data.
#pragma once

#include <atomic>
#include <limits>
#include <memory>
#include <string>

#include "parallel/device_backend.h"

namespace sft::testing {

class FakeRuntime : public parallel::DeviceRuntime {
 public:
  explicit FakeRuntime(int device_count = 1) : device_count_(device_count) {}
  c10::DeviceType device_type() override { return c10::DeviceType::CPU; }
  int device_count() override { return device_count_; }
  void set_device(int index) override { current_device_ = index; }
  int current_device() const { return current_device_; }
  Stream create_stream() override;
  void destroy_stream(Stream stream) override;
  Stream compute_stream() override { return nullptr; }
  Event create_event() override;
  void destroy_event(Event event) override;
  void record(Event event, Stream stream) override;
  void wait(Stream stream, Event event) override;
  bool happened(Event event) override;

 private:
  int device_count_;
  int current_device_ = 0;
};

// Every rank of MPI_COMM_WORLD must call init() at the same time; those with the same id form a communicator.
class FakeNccl : public parallel::NcclApi {
 public:
  static constexpr int kNever = std::numeric_limits<int>::max();

  // The collective with this number (from 0) hangs, and its communicator reports an error, from so many looks
  // on and until it is aborted.
  void fail_operation(int number, int looks = 0) {
    failing_operation_ = number;
    looks_until_failed_ = looks;
  }
  // The call itself fails.
  void refuse_operation(int number) { refused_operation_ = number; }
  // The call is in progress for so many looks.
  void delay_operation(int number, int looks) {
    delayed_operation_ = number;
    looks_until_accepted_ = looks;
  }
  // Initialisation never ends, as when a rank does not come.
  void never_initialise() { initialises_ = false; }
  void refuse_initialisation() { refuses_initialisation_ = true; }
  void never_finalise() { finalises_ = false; }
  int num_aborted() const { return num_aborted_; }
  int num_finalised() const { return num_finalised_; }

  Result make_id(std::string& id) override;
  Result init(Comm& comm, int rank, int size, const std::string& id) override;
  Result state(Comm comm) override;
  Result finalize(Comm comm) override;
  void destroy(Comm comm) override;
  void abort(Comm comm) override;
  Result all_reduce(void* data, std::size_t count, Type type, parallel::ReduceOp op, Comm comm,
                    Stream stream) override;
  Result reduce_scatter(void* output, const void* input, std::size_t n, Type type, Comm comm,
                        Stream stream) override;
  Result all_gather(void* output, const void* input, std::size_t n, Type type, Comm comm,
                    Stream stream) override;
  Result broadcast(void* data, std::size_t count, Type type, int root, Comm comm, Stream stream) override;

 private:
  struct FakeComm;
  template <typename Operation>
  Result enqueue(Comm comm, Stream stream, Operation operation);

  int num_ids_ = 0;
  int num_operations_ = 0;
  int failing_operation_ = -1, looks_until_failed_ = 0;
  int refused_operation_ = -1;
  int delayed_operation_ = -1, looks_until_accepted_ = 0;
  bool initialises_ = true, refuses_initialisation_ = false, finalises_ = true;
  std::atomic<int> num_aborted_ = 0, num_finalised_ = 0;
};

// Both, as the loader would give them.
struct FakeDevice {
  FakeRuntime runtime;
  FakeNccl nccl;
  parallel::DeviceBackend backend{&runtime, &nccl};
};

}  // namespace sft::testing
