#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

#include "ops/generic/generic.h"

namespace sft::ops::generic {
namespace {

// A GPU multiplies bf16 operands to an fp32 product; elsewhere they are widened first.
void mixed_matmul(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias, const at::Tensor& c,
                  bool accumulate) {
  if (!c.is_cuda()) return matmul(a.to(c.scalar_type()), b.to(c.scalar_type()), bias, c, accumulate);
  const at::Tensor product = at::mm(a, b, c.scalar_type());
  if (accumulate) {
    c.add_(product);
  } else {
    c.copy_(product);
    if (bias.defined()) c.add_(bias);
  }
}

}  // namespace

void matmul(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias, const at::Tensor& c,
            bool accumulate) {
  if (a.scalar_type() != c.scalar_type()) return mixed_matmul(a, b, bias, c, accumulate);
  at::Tensor out = c;
  if (accumulate) {
    out.addmm_(a, b);
  } else if (bias.defined()) {
    at::addmm_out(out, bias.to(c.scalar_type()), a, b);
  } else {
    at::mm_out(out, a, b);
  }
}

}  // namespace sft::ops::generic
