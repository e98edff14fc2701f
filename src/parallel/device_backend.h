// What the nccl back end needs of a device: streams, events and NCCL, behind two small interfaces.
//
// src/parallel/cuda implements them over CUDA and NCCL in a library of its own (libsft_cuda.so), loaded when
// a GPU is asked for; tests/support/fake_device.h over MPI and host memory, so that the control flow of
// nccl_communicator.cpp runs without a GPU.
#pragma once

#include <c10/core/DeviceType.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "sft/parallel/communicator.h"
#include "sft/parallel/environment.h"

namespace sft::parallel {

// Failures are Error(kInternal) naming the call.
class DeviceRuntime {
 public:
  using Stream = void*;
  using Event = void*;

  virtual ~DeviceRuntime() = default;
  virtual c10::DeviceType device_type() = 0;
  virtual int device_count() = 0;          // 0 without a driver
  virtual void set_device(int index) = 0;  // for the calling thread, LibTorch's too
  virtual Stream create_stream() = 0;
  virtual void destroy_stream(Stream stream) = 0;
  virtual Stream compute_stream() = 0;  // LibTorch's current one, of the calling thread
  virtual Event create_event() = 0;
  virtual void destroy_event(Event event) = 0;
  virtual void record(Event event, Stream stream) = 0;  // happens when the stream gets there
  virtual void wait(Stream stream,
                    Event event) = 0;  // what is given to the stream from now on comes after the event
  virtual bool happened(Event event) = 0;
};

// NCCL, non-blocking: kInProgress means that state() tells how it ended.
class NcclApi {
 public:
  using Comm = void*;
  using Stream = DeviceRuntime::Stream;
  enum class Status { kOk, kInProgress, kFailed };
  struct Result {
    Status status = Status::kOk;
    std::string text;  // when failed
  };
  enum class Type { kFloat, kDouble, kBf16, kInt32, kInt64, kUint8 };

  virtual ~NcclApi() = default;
  virtual Result make_id(std::string& id) = 0;
  virtual Result init(Comm& comm, int rank, int size, const std::string& id) = 0;  // Collective
  virtual Result state(Comm comm) = 0;                                             // also asynchronous errors
  virtual Result finalize(Comm comm) = 0;  // Collective; destroy() follows
  virtual void destroy(Comm comm) = 0;
  virtual void abort(Comm comm) = 0;  // ends what is under way and frees; from any thread

  // Counts are elements; n is one rank's part.
  virtual Result all_reduce(void* data, std::size_t count, Type type, ReduceOp op, Comm comm,
                            Stream stream) = 0;
  virtual Result reduce_scatter(void* output, const void* input, std::size_t n, Type type, Comm comm,
                                Stream stream) = 0;
  virtual Result all_gather(void* output, const void* input, std::size_t n, Type type, Comm comm,
                            Stream stream) = 0;
  virtual Result broadcast(void* data, std::size_t count, Type type, int root, Comm comm, Stream stream) = 0;
};

struct DeviceBackend {
  DeviceRuntime* runtime;
  NcclApi* nccl;
};

// Name of the function the library exports: `extern "C" const DeviceBackend* sft_device_backend()`; valid
// until the program ends.
inline constexpr const char* kDeviceBackendSymbol = "sft_device_backend";

// Beside the program, or in ../lib as installed; an empty path when it is in neither place.
std::filesystem::path find_device_library();
// Loads it, and LibTorch's CUDA half with it. Error(kConfig) when that fails. It stays loaded.
const DeviceBackend& load_device_backend(const std::filesystem::path& library);
// Makes this rank's GPU, chosen by its local rank, the current one. Error(kConfig) when there are fewer GPUs
// than ranks on this host.
void use_own_gpu(DeviceRuntime& runtime, const Topology& topology);

}  // namespace sft::parallel
