#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <cmath>

#include "ops/row_stream.h"

namespace sft::ops {

at::Tensor embedding_noise_apply(const at::Tensor& x, double alpha, const DropoutSite& site) {
  if (alpha == 0.0) return x;
  at::Tensor noise = at::empty(x.sizes(), at::TensorOptions(at::kFloat));
  const int64_t width = x.size(1);
  for (std::size_t row = 0; row + 1 < site.cu_seqlens.size(); ++row) {
    const int64_t begin = site.cu_seqlens[row] * width, count = site.cu_seqlens[row + 1] * width - begin;
    const auto magnitude = static_cast<float>(alpha / std::sqrt(static_cast<double>(count)));
    const RowStream stream(site, site.rows[row]);
    float* const out = noise.mutable_data_ptr<float>() + begin;
    at::parallel_for(0, count, kGrain, [&](int64_t first, int64_t last) {
      stream.visit(first, last, [&](int64_t element, uint32_t random) {
        out[element] = magnitude * (2.0F * base::uniform01(random) - 1.0F);
      });
    });
  }
  return x + noise.to(x.options());
}

}  // namespace sft::ops
