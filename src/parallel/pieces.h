// Long messages in pieces.
#pragma once

#include <algorithm>
#include <cstdint>

#include "sft/base/checked.h"

namespace sft::parallel {

// Elements a data-plane collective moves at a time.
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
