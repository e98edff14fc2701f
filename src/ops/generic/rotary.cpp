#include <ATen/TensorOperators.h>

#include "ops/generic/generic.h"

namespace sft::ops::generic {

void rotary_inplace(at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse) {
  const int64_t pairs = cos.size(1);
  const at::Tensor first = x.narrow(2, 0, pairs);
  const at::Tensor second = x.narrow(2, pairs, pairs);
  const at::Tensor c = cos.unsqueeze(1).to(x.scalar_type());
  const at::Tensor s = (inverse ? sin.neg() : sin).unsqueeze(1).to(x.scalar_type());
  const at::Tensor rotated = first * c - second * s;
  second.copy_(second * c + first * s);
  first.copy_(rotated);
}

}  // namespace sft::ops::generic
