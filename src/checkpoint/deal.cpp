#include "checkpoint/deal.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "sft/base/checked.h"

namespace sft::checkpoint {
namespace {

struct AlignedSegment {
  std::size_t file = 0;
  int64_t begin = 0, end = 0;
  std::size_t holders = 0;
};

// Segments moved to page boundaries: a page belongs to the holders of its first byte.
std::vector<AlignedSegment> align(const Layout& layout) {
  std::vector<AlignedSegment> result;
  for (std::size_t file = 0; file < layout.files.size(); ++file) {
    const int64_t size = layout.files[file].size;
    for (const Segment& segment : layout.files[file].segments) {
      const int64_t begin = std::min(base::round_up(segment.begin, kPageBytes), size);
      const int64_t end = std::min(base::round_up(segment.end, kPageBytes), size);
      if (begin < end) result.push_back({file, begin, end, segment.holders});
    }
  }
  return result;
}

// How many of `bytes` more bytes each holder takes so that the loads come out as equal as they can:
// the least loaded holders are filled up to one common level, the others stay as they are.
std::vector<int64_t> level(const std::vector<int>& holders, const std::vector<int64_t>& load, int64_t bytes) {
  const auto load_of = [&](std::size_t i) { return load[static_cast<std::size_t>(holders[i])]; };
  std::vector<std::size_t> order(holders.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, {}, load_of);
  int64_t sum = bytes, count = 0;
  for (const std::size_t i : order) {
    if (count > 0 && sum / count <= load_of(i)) break;
    sum += load_of(i);
    ++count;
  }
  std::vector<int64_t> quota(holders.size(), 0);
  for (int64_t k = 0; k < count; ++k) {
    const std::size_t i = order[static_cast<std::size_t>(k)];
    quota[i] = sum / count + (k < sum % count ? 1 : 0) - load_of(i);
  }
  return quota;
}

void deal_segment(const AlignedSegment& segment, const std::vector<int>& holders, std::vector<int64_t>& load,
                  std::vector<WriteRange>& ranges) {
  const std::vector<int64_t> quota = level(holders, load, segment.end - segment.begin);
  int64_t begin = segment.begin, exact_end = segment.begin;
  for (std::size_t i = 0; i < holders.size(); ++i) {
    exact_end += quota[i];
    const int64_t rounded = (exact_end + kPageBytes / 2) / kPageBytes * kPageBytes;
    const int64_t end = exact_end == segment.end ? segment.end : std::clamp(rounded, begin, segment.end);
    if (end > begin) ranges.push_back({segment.file, begin, end, holders[i]});
    load[static_cast<std::size_t>(holders[i])] += end - begin;
    begin = end;
  }
}

std::vector<Fragment> find_fragments(const Layout& layout, const std::vector<WriteRange>& ranges) {
  std::vector<Fragment> fragments;
  std::size_t first = 0;  // the segment in which the current range begins
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const WriteRange& range = ranges[i];
    if (i == 0 || range.file != ranges[i - 1].file) first = 0;
    const std::vector<Segment>& segments = layout.files[range.file].segments;
    while (segments[first].end <= range.begin) ++first;
    for (std::size_t s = first; s < segments.size() && segments[s].begin < range.end; ++s) {
      const std::vector<int>& holders = layout.holder_sets[segments[s].holders];
      if (std::ranges::binary_search(holders, range.rank)) continue;
      fragments.push_back({range.file, std::max(range.begin, segments[s].begin),
                           std::min(range.end, segments[s].end), holders.front(), range.rank});
    }
  }
  return fragments;
}

}  // namespace

Deal deal_ranges(const Layout& layout, std::vector<int64_t> load) {
  std::vector<AlignedSegment> segments = align(layout);
  // What few ranks can write comes first; the rest then evens out the loads.
  std::ranges::stable_sort(segments, {}, [&](const AlignedSegment& segment) {
    return layout.holder_sets[segment.holders].size();
  });
  Deal deal;
  for (const AlignedSegment& segment : segments) {
    deal_segment(segment, layout.holder_sets[segment.holders], load, deal.ranges);
  }
  std::ranges::sort(deal.ranges, {},
                    [](const WriteRange& range) { return std::pair(range.file, range.begin); });
  deal.fragments = find_fragments(layout, deal.ranges);
  return deal;
}

}  // namespace sft::checkpoint
