#include "sft/memory/long_lived.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <sys/mman.h>

#include <cstddef>

namespace sft::memory {
namespace {

constexpr std::size_t kSmallestMapped = std::size_t{1} << 20;

}  // namespace

at::Tensor long_lived_zeros(int64_t numel, const at::TensorOptions& options) {
  const std::size_t bytes = static_cast<std::size_t>(numel) * options.dtype().itemsize();
  if (!options.device().is_cpu() || bytes < kSmallestMapped) return at::zeros({numel}, options);
  void* const data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return at::zeros({numel}, options);  // or says how much it could not have
  return at::from_blob(
      data, {numel}, [bytes](void* mapped) { ::munmap(mapped, bytes); }, options);
}

}  // namespace sft::memory
