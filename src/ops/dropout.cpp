#include "ops/dropout.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <array>
#include <cmath>

#include "sft/base/rng.h"

namespace sft::ops {
namespace {

constexpr int64_t kLanes = 4;        // values per Philox call
constexpr int64_t kGrain = 1 << 14;  // elements per task

// The random stream of one segment at one site: key from (seed, epoch, layer, site), counter from (element,
// position, segment). Positions stay below 2^40, and segments of a row below 2^24.
class RowStream {
 public:
  RowStream(const DropoutSite& site, const DropoutRow& row)
      : place_(static_cast<uint64_t>(row.position) | static_cast<uint64_t>(row.segment) << 40) {
    const base::Philox4 mixed = base::philox4x32(
        {static_cast<uint32_t>(row.epoch), static_cast<uint32_t>(static_cast<uint64_t>(row.epoch) >> 32),
         static_cast<uint32_t>(site.layer), static_cast<uint32_t>(site.site)},
        {static_cast<uint32_t>(site.seed), static_cast<uint32_t>(site.seed >> 32)});
    key_ = {mixed[0], mixed[1]};
  }
  base::Philox4 block(int64_t index) const {
    const auto bits = static_cast<uint64_t>(index);
    return base::philox4x32({static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32),
                             static_cast<uint32_t>(place_), static_cast<uint32_t>(place_ >> 32)},
                            key_);
  }

 private:
  uint64_t place_;
  std::array<uint32_t, 2> key_{};
};

// Writes the mask of elements [begin, end) to out[0 ...].
void fill_mask(const RowStream& stream, double probability, int64_t begin, int64_t end, float* out) {
  const auto scale = static_cast<float>(1.0 / (1.0 - probability));
  const auto threshold = static_cast<float>(probability);
  for (int64_t index = begin / kLanes; index * kLanes < end; ++index) {
    const base::Philox4 random = stream.block(index);
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const int64_t element = index * kLanes + lane;
      if (element < begin || element >= end) continue;
      out[element - begin] =
          base::uniform01(random[static_cast<std::size_t>(lane)]) >= threshold ? scale : 0.0F;
    }
  }
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
  return x * mask.to(x.options());
}

}  // namespace sft::ops
