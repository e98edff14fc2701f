// Masks of a part of a dropout site's elements.
#pragma once

#include "sft/ops/ops.h"

namespace sft::ops {

inline bool is_active(const DropoutSite* site) {
  return site != nullptr && site->probability > 0.0;
}

// Elements [begin, begin + count) of row `row`: float on the CPU, 0 or 1 / (1 - p).
at::Tensor dropout_mask_range(const DropoutSite& site, int64_t row, int64_t begin, int64_t count);
// The same into out[0 ... count), by the calling thread alone.
void fill_dropout_mask(const DropoutSite& site, int64_t row, int64_t begin, int64_t count, float* out);

}  // namespace sft::ops
