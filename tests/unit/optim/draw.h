// The start values and gradients of the optimizer goldens.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <cstdint>

namespace sft::optim {

// The same numbers as `draw` in tests/golden/make_optimizers.py.
inline at::Tensor draw(uint32_t stream, int64_t count) {
  at::Tensor result = at::zeros({count}, at::kFloat);
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits = stream * 2654435761U + static_cast<uint32_t>(i) * 2246822519U + 374761393U;
    bits = (bits ^ (bits >> 15)) * 2246822519U;
    bits ^= bits >> 13;
    const double unit = (bits >> 8) * 0x1.0p-24 - 0.5;
    result.data_ptr<float>()[i] = static_cast<float>(std::ldexp(unit, static_cast<int>(-(i % 7))));
  }
  return result;
}

}  // namespace sft::optim
