#include "parallel/cuda/cuda_runtime.h"

#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include "sft/base/error.h"

namespace sft::parallel {
namespace {

void check_cuda(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  const auto exit_code =
      code == cudaErrorMemoryAllocation ? base::ExitCode::kOutOfMemory : base::ExitCode::kInternal;
  base::fail(exit_code, "{} failed: {}", call, cudaGetErrorString(code));
}

cudaStream_t stream_of(DeviceRuntime::Stream stream) {
  return static_cast<cudaStream_t>(stream);
}
cudaEvent_t event_of(DeviceRuntime::Event event) {
  return static_cast<cudaEvent_t>(event);
}

class CudaRuntime : public DeviceRuntime {
 public:
  c10::DeviceType device_type() override { return c10::DeviceType::CUDA; }
  int device_count() override {
    int count = 0;
    const cudaError_t code = cudaGetDeviceCount(&count);
    if (code == cudaErrorNoDevice || code == cudaErrorInsufficientDriver) {
      cudaGetLastError();  // forget it
      return 0;
    }
    check_cuda(code, "cudaGetDeviceCount");
    return count;
  }
  void set_device(int index) override { c10::cuda::set_device(static_cast<c10::DeviceIndex>(index)); }
  Stream create_stream() override {
    // High priority: a collective's few blocks go before the computation's many, so that it can overlap them.
    int lowest = 0, highest = 0;
    check_cuda(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "cudaDeviceGetStreamPriorityRange");
    cudaStream_t stream = nullptr;
    check_cuda(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, highest),
               "cudaStreamCreateWithPriority");
    return stream;
  }
  void destroy_stream(Stream stream) override { cudaStreamDestroy(stream_of(stream)); }
  Stream compute_stream() override { return c10::cuda::getCurrentCUDAStream().stream(); }
  Event create_event() override {
    cudaEvent_t event = nullptr;
    check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    return event;
  }
  void destroy_event(Event event) override { cudaEventDestroy(event_of(event)); }
  void record(Event event, Stream stream) override {
    check_cuda(cudaEventRecord(event_of(event), stream_of(stream)), "cudaEventRecord");
  }
  void wait(Stream stream, Event event) override {
    check_cuda(cudaStreamWaitEvent(stream_of(stream), event_of(event), 0), "cudaStreamWaitEvent");
  }
  bool happened(Event event) override {
    const cudaError_t code = cudaEventQuery(event_of(event));
    if (code == cudaErrorNotReady) return false;
    check_cuda(code, "cudaEventQuery");
    return true;
  }
};

}  // namespace

std::unique_ptr<DeviceRuntime> make_cuda_runtime() {
  return std::make_unique<CudaRuntime>();
}

}  // namespace sft::parallel

extern "C" const sft::parallel::DeviceBackend* sft_device_backend() {
  // Never destroyed: the CUDA runtime may be gone when static objects end.
  static const auto* const backend = new sft::parallel::DeviceBackend{
      sft::parallel::make_cuda_runtime().release(), sft::parallel::make_nccl_api().release()};
  return backend;
}
