#include <ATen/TensorOperators.h>

#include "ops/generic/generic.h"

namespace sft::ops::generic {

void rotary_inplace(at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse,
                    RotaryLayout layout) {
  const int64_t pairs = cos.size(1);
  const bool halves = layout == RotaryLayout::kHalves;
  const at::Tensor first = halves ? x.narrow(2, 0, pairs) : x.slice(2, 0, 2 * pairs, 2);
  const at::Tensor second = halves ? x.narrow(2, pairs, pairs) : x.slice(2, 1, 2 * pairs, 2);
  const at::Tensor c = cos.unsqueeze(1).to(x.scalar_type());
  const at::Tensor s = (inverse ? sin.neg() : sin).unsqueeze(1).to(x.scalar_type());
  const at::Tensor rotated = first * c - second * s;
  second.copy_(second * c + first * s);
  first.copy_(rotated);
}

}  // namespace sft::ops::generic
