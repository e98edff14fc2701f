// What every back end asks of the tensors it is given.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>

namespace sft::parallel {

// Throws Error(kInternal) unless the tensor is contiguous, of a dtype the contract names, and on the given
// device type.
void check_tensor(std::string_view operation, const at::Tensor& tensor,
                  std::optional<c10::DeviceType> device);
// As above for both, and large.numel() == size * small.numel(), same dtype.
void check_parts(std::string_view operation, const at::Tensor& large, const at::Tensor& small, int size,
                 std::optional<c10::DeviceType> device);
void check_root(std::string_view operation, int root, int size);

}  // namespace sft::parallel
