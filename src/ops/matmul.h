// The one matrix product that every linear is made of.
#pragma once

#include <ATen/core/Tensor.h>

#include "sft/ops/ops.h"

namespace sft::ops {

// operand() in the dtype of the other operand: a frozen weight may be held in bf16 while products are in fp32.
at::Tensor operand_like(const at::Tensor& other, const at::Tensor& t, ComputeDtype compute);

// c = a b + bias, or c += a b when `accumulate` (then without bias).
// a [M, K], b [K, N], c [M, N]: views with any strides, so a transposed matrix costs nothing; bias [N] or
// undefined. a and b are of one dtype; c is of that dtype, or fp32 when they are bf16. Sums are taken in c's
// dtype.
void matmul(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias, const at::Tensor& c,
            bool accumulate);

}  // namespace sft::ops
