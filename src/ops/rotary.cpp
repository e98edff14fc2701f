#include "ops/cpu/cpu.h"
#include "ops/generic/generic.h"
#include "sft/ops/ops.h"

namespace sft::ops {

void rotary_inplace(at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse,
                    RotaryLayout layout) {
  const bool strided_fp32 = x.is_cpu() && x.scalar_type() == at::kFloat && x.stride(2) == 1;
  if (strided_fp32 && cpu::fits(cos) && cpu::fits(sin))
    return cpu::rotary_inplace(x, cos, sin, inverse, layout);
  generic::rotary_inplace(x, cos, sin, inverse, layout);
}

}  // namespace sft::ops
