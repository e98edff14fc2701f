#include "parallel/tensor_checks.h"

#include <algorithm>
#include <array>

#include "sft/base/error.h"

namespace sft::parallel {

using base::ExitCode;

void check_tensor(std::string_view operation, const at::Tensor& tensor,
                  std::optional<c10::DeviceType> device) {
  constexpr std::array kTypes{at::kFloat, at::kDouble, at::kBFloat16, at::kInt, at::kLong, at::kByte};
  if (!tensor.defined()) base::fail(ExitCode::kInternal, "{}: undefined tensor", operation);
  if (device && tensor.device().type() != *device) {
    base::fail(ExitCode::kInternal, "{}: tensor is on {}, this communicator serves {}", operation,
               tensor.device().str(), c10::DeviceTypeName(*device, true));
  }
  if (!tensor.is_contiguous()) base::fail(ExitCode::kInternal, "{}: tensor is not contiguous", operation);
  if (std::find(kTypes.begin(), kTypes.end(), tensor.scalar_type()) == kTypes.end()) {
    base::fail(ExitCode::kInternal, "{}: no support for {}", operation, c10::toString(tensor.scalar_type()));
  }
}

void check_parts(std::string_view operation, const at::Tensor& large, const at::Tensor& small, int size,
                 std::optional<c10::DeviceType> device) {
  check_tensor(operation, large, device);
  check_tensor(operation, small, device);
  if (large.scalar_type() != small.scalar_type()) {
    base::fail(ExitCode::kInternal, "{}: {} against {}", operation, c10::toString(large.scalar_type()),
               c10::toString(small.scalar_type()));
  }
  if (large.numel() != size * small.numel()) {
    base::fail(ExitCode::kInternal, "{}: {} elements are not {} ranks times {}", operation, large.numel(),
               size, small.numel());
  }
}

void check_root(std::string_view operation, int root, int size) {
  if (root < 0 || root >= size)
    base::fail(ExitCode::kInternal, "{}: no rank {} among {}", operation, root, size);
}

}  // namespace sft::parallel
