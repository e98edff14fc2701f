// Memory of large tensors that live as long as the run.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>

#include <cstdint>

namespace sft::memory {

// Local. [numel] zeros, as at::zeros gives them. Large ones on the host come from the system page by page as
// they are first touched: nothing is written that the run overwrites anyway, and what a command never touches
// takes no memory. Error(kOutOfMemory), or of a small or a device's one what at::zeros throws.
at::Tensor long_lived_zeros(int64_t numel, const at::TensorOptions& options);

}  // namespace sft::memory
