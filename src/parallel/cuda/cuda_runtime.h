// The two halves of DeviceBackend over CUDA.
#pragma once

#include <memory>

#include "parallel/device_backend.h"

namespace sft::parallel {

std::unique_ptr<DeviceRuntime> make_cuda_runtime();
std::unique_ptr<NcclApi> make_nccl_api();

}  // namespace sft::parallel
