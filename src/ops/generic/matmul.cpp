#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>

#include "ops/generic/generic.h"

namespace sft::ops::generic {

void matmul(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias, const at::Tensor& c,
            bool accumulate) {
  if (accumulate) {
    if (a.scalar_type() == c.scalar_type()) {
      c.addmm_(a, b);
    } else {
      c.add_(at::mm(a, b));
    }
    return;
  }
  c.copy_(at::mm(a, b));
  if (bias.defined()) c.add_(bias);
}

}  // namespace sft::ops::generic
