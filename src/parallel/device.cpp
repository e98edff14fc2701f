#include <filesystem>
#include <system_error>

#include "parallel/device_backend.h"
#include "sft/base/error.h"
#include "sft/base/log.h"
#include "sft/parallel/environment.h"

namespace sft::parallel {

using base::ExitCode;

namespace {

// A look at the driver's device file costs nothing; loading the CUDA half takes a third of a second and 300
// MB.
bool driver_present() {
  std::error_code error;
  return std::filesystem::exists("/dev/nvidiactl", error) || std::filesystem::exists("/dev/dxg", error);
}

}  // namespace

void use_own_gpu(DeviceRuntime& runtime, const Topology& topology) {
  const int num_gpus = runtime.device_count();
  if (topology.local_world_size > num_gpus) {
    base::fail(ExitCode::kConfig,
               "host {} has {} ranks and {} GPU{}; a rank needs one of its own and has to see those of its host (srun "
               "--gpu-bind=none). Start fewer ranks there, or use device = cpu",
               topology.host, topology.local_world_size, num_gpus, num_gpus == 1 ? "" : "s");
  }
  runtime.set_device(topology.local_rank);
}

std::string select_device(const std::string& requested, const Topology& topology) {
  if (requested != "auto" && requested != "cpu" && requested != "cuda") {
    base::fail(ExitCode::kConfig, "device = {}: must be auto, cpu or cuda", requested);
  }
  if (requested == "cpu" || (requested == "auto" && !driver_present())) return "cpu";

  const std::filesystem::path library = find_device_library();
  if (library.empty()) {
    if (requested == "auto") {
      log::warning("this machine has an NVIDIA driver, but this build has no CUDA half (libsft_cuda.so): the run uses the CPU");
      return "cpu";
    }
    base::fail(ExitCode::kConfig,
               "device = cuda, but this build has no CUDA half (libsft_cuda.so): configure with "
               "SFT_WITH_CUDA=ON, or use "
               "device = cpu");
  }
  DeviceRuntime& runtime = *load_device_backend(library).runtime;
  if (runtime.device_count() == 0) {
    if (requested == "auto") {
      log::warning("host {} has an NVIDIA driver, but shows no GPU (too old a driver for CUDA 13, which needs 580 or later? CUDA_VISIBLE_DEVICES?): "
                   "the run uses the CPU",
                   topology.host);
      return "cpu";
    }
    base::fail(
        ExitCode::kConfig,
        "device = cuda, but host {} shows no GPU (is the driver loaded, and CUDA_VISIBLE_DEVICES right?)",
        topology.host);
  }
  use_own_gpu(runtime, topology);
  return "cuda";
}

}  // namespace sft::parallel
