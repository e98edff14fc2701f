// Who writes what: a checkpoint's bytes dealt to the ranks that hold them, so that all write the same amount.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/layout.h"

namespace sft::checkpoint {

inline constexpr int64_t kPageBytes = 4096;

// Bytes [begin, end) of file `file` (index into Layout::files), written by `rank`. Cuts between ranges lie on
// multiples of kPageBytes, so two ranks never write into one page (network file systems cache and write back
// whole pages).
struct WriteRange {
  std::size_t file = 0;
  int64_t begin = 0, end = 0;
  int rank = 0;
};

// Bytes at the edge of a range whose writer does not hold them: `sender` hands them over first.
struct Fragment {
  std::size_t file = 0;
  int64_t begin = 0, end = 0;
  int sender = 0, receiver = 0;
};

struct Deal {
  std::vector<WriteRange> ranges;  // by file and position, covering every file
  std::vector<Fragment> fragments;
};

// Local. load[rank]: what a rank writes besides (side files), counted into its share.
Deal deal_ranges(const Layout& layout, std::vector<int64_t> load);

}  // namespace sft::checkpoint
