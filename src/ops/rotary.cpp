#include "ops/generic/generic.h"
#include "sft/ops/ops.h"

namespace sft::ops {

void rotary_inplace(at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse) {
  generic::rotary_inplace(x, cos, sin, inverse);
}

}  // namespace sft::ops
