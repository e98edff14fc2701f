#include "sft/memory/long_lived.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cstddef>

#include "sft/base/error.h"

namespace sft::memory {
namespace {

constexpr std::size_t kSmallestMapped = std::size_t{1} << 20;

[[noreturn]] void refuse(std::size_t bytes) {
  const auto mega = [](auto size) { return static_cast<double>(size) / 1e6; };
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    base::fail(base::ExitCode::kOutOfMemory,
               "out of memory: {:.0f} MB more are needed, and the limit on the address space (ulimit -v) is "
               "{:.0f} MB; raise it, or ask for more memory",
               mega(bytes), mega(limit.rlim_cur));
  }
  base::fail(
      base::ExitCode::kOutOfMemory,
      "out of memory: {:.0f} MB more are needed, and the system does not give them (vm.overcommit_memory)",
      mega(bytes));
}

}  // namespace

at::Tensor long_lived_zeros(int64_t numel, const at::TensorOptions& options) {
  const std::size_t bytes = static_cast<std::size_t>(numel) * options.dtype().itemsize();
  if (!options.device().is_cpu() || bytes < kSmallestMapped) return at::zeros({numel}, options);
  void* const data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) refuse(bytes);
  return at::from_blob(
      data, {numel}, [bytes](void* mapped) { ::munmap(mapped, bytes); }, options);
}

}  // namespace sft::memory
