// The random numbers of one segment of a row at one site: a function of (seed, epoch, position, layer, site, segment, element).
#pragma once

#include <array>
#include <cstdint>

#include "sft/base/rng.h"
#include "sft/ops/ops.h"

namespace sft::ops {

inline constexpr int64_t kGrain = 1 << 14;  // elements per task

// Key from (seed, epoch, layer, site), counter from (element, position, segment). Positions stay below 2^40, and segments
// of a row below 2^24.
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

  // take(element, random bits) for elements [begin, end).
  template <typename Take>
  void visit(int64_t begin, int64_t end, Take&& take) const {
    for (int64_t index = begin / kLanes; index * kLanes < end; ++index) {
      const base::Philox4 random = block(index);
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const int64_t element = index * kLanes + lane;
        if (element >= begin && element < end) take(element, random[static_cast<std::size_t>(lane)]);
      }
    }
  }

 private:
  static constexpr int64_t kLanes = 4;  // values per Philox call

  base::Philox4 block(int64_t index) const {
    const auto bits = static_cast<uint64_t>(index);
    return base::philox4x32({static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32),
                             static_cast<uint32_t>(place_), static_cast<uint32_t>(place_ >> 32)},
                            key_);
  }

  uint64_t place_;
  std::array<uint32_t, 2> key_{};
};

}  // namespace sft::ops
