// Long messages in pieces.
#pragma once

#include <algorithm>
#include <cstdint>

#include "sft/base/checked.h"

namespace sft::parallel {

// Elements a data-plane collective moves at a time. Two ranks on one host (tests/bench/allreduce): 256 Ki to
// 1 Mi floats 4.4 GB/s, 4 Mi 0.9; beside a computation 512 Ki and 1 Mi were the best.
inline constexpr int64_t kPieceElements = 512 * 1024;

// Calls visit(offset, count) for consecutive pieces of at most `piece` elements; count is an int because MPI
// counts in int.
template <typename Visit>
void for_each_piece(int64_t total, int64_t piece, Visit&& visit) {
  for (int64_t offset = 0; offset < total; offset += piece) {
    visit(offset, base::narrow<int>(std::min(piece, total - offset)));
  }
}

}  // namespace sft::parallel
