// Which documents share a row.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "sft/data/dataset.h"

namespace sft::data {

// Tokens [begin, begin + length) of a row of the file.
struct Piece {
  int64_t row = 0;
  int32_t begin = 0, length = 0;
  bool operator==(const Piece&) const = default;
};

// Rows, each a list of pieces. 16 bytes a piece and 8 a row; tokens are not looked at.
struct PackedRows {
  std::vector<Piece> pieces;
  std::vector<int64_t> first_piece = {0};  // [rows + 1]

  int64_t size() const { return static_cast<int64_t>(first_piece.size()) - 1; }
  std::span<const Piece> row(int64_t index) const {
    const auto i = static_cast<std::size_t>(index);
    return std::span(pieces).subspan(static_cast<std::size_t>(first_piece[i]),
                                     static_cast<std::size_t>(first_piece[i + 1] - first_piece[i]));
  }
};

// The rows that TRL's pack_dataset makes of documents 0, 1, ...; document(i) is whole: its begin is 0.
// O(n log n) in the documents of a scope.
PackedRows pack_documents(int64_t num_documents, const std::function<Piece(int64_t)>& document,
                          int64_t max_length, const Packing& packing);

}  // namespace sft::data
