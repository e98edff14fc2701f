#include "ops/dropout.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <cmath>

#include "ops/row_stream.h"

namespace sft::ops {
namespace {

// Writes the mask of elements [begin, end) to out[0 ...].
void fill_mask(const RowStream& stream, double probability, int64_t begin, int64_t end, float* out) {
  const auto scale = static_cast<float>(1.0 / (1.0 - probability));
  const auto threshold = static_cast<float>(probability);
  stream.visit(begin, end, [&](int64_t element, uint32_t random) {
    out[element - begin] = base::uniform01(random) >= threshold ? scale : 0.0F;
  });
}

void fill_mask_parallel(const DropoutSite& site, int64_t row, int64_t begin, int64_t count, float* out) {
  const RowStream stream(site, site.rows[static_cast<std::size_t>(row)]);
  at::parallel_for(0, count, kGrain, [&](int64_t first, int64_t last) {
    fill_mask(stream, site.probability, begin + first, begin + last, out + first);
  });
}

}  // namespace

at::Tensor dropout_mask_range(const DropoutSite& site, int64_t row, int64_t begin, int64_t count) {
  at::Tensor mask = at::empty({count}, at::TensorOptions(at::kFloat));
  fill_mask_parallel(site, row, begin, count, mask.mutable_data_ptr<float>());
  return mask;
}

void fill_dropout_mask(const DropoutSite& site, int64_t row, int64_t begin, int64_t count, float* out) {
  fill_mask(RowStream(site, site.rows[static_cast<std::size_t>(row)]), site.probability, begin, begin + count,
            out);
}

at::Tensor dropout_mask(const DropoutSite& site, int64_t row, int64_t count) {
  return dropout_mask_range(site, row, 0, count);
}

at::Tensor dropout_apply(const at::Tensor& x, const DropoutSite& site) {
  if (!is_active(&site)) return x;
  at::Tensor mask = at::empty(x.sizes(), at::TensorOptions(at::kFloat));
  float* out = mask.mutable_data_ptr<float>();
  const int64_t width = x.size(1);
  for (std::size_t row = 0; row + 1 < site.cu_seqlens.size(); ++row) {
    const int64_t begin = site.cu_seqlens[row], end = site.cu_seqlens[row + 1];
    fill_mask_parallel(site, static_cast<int64_t>(row), 0, (end - begin) * width, out + begin * width);
  }
  // bf16 would round 1 / (1 - p).
  return x * (x.scalar_type() == at::kBFloat16 ? mask.to(x.device()) : mask.to(x.options()));
}

}  // namespace sft::ops
