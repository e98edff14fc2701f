#include <dlfcn.h>

#include <system_error>

#include "parallel/device_backend.h"
#include "sft/base/error.h"

namespace sft::parallel {

using base::ExitCode;

std::filesystem::path find_device_library() {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  for (const auto& place : {folder, folder.parent_path() / "lib"}) {
    const std::filesystem::path library = place / "libsft_cuda.so";
    if (std::filesystem::exists(library, error)) return library;
  }
  return {};
}

const DeviceBackend& load_device_backend(const std::filesystem::path& library) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (handle == nullptr)
    base::fail(ExitCode::kConfig, "the CUDA half cannot be loaded: {}; use device = cpu", dlerror());
  const auto entry = reinterpret_cast<const DeviceBackend* (*)()>(dlsym(handle, kDeviceBackendSymbol));
  if (entry == nullptr)
    base::fail(ExitCode::kConfig, "{} is not sft-dist's CUDA half: {}", library.string(), dlerror());
  return *entry();
}

}  // namespace sft::parallel
