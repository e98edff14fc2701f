#include "data/packing.h"

#include <algorithm>
#include <deque>
#include <map>

namespace sft::data {
namespace {

// Rows with space left. Among rows with the same space, the one that got it first is taken first.
class OpenRows {
 public:
  // The row with the least space that is enough, or -1. Sets `space` to what it had.
  int64_t take(int32_t needed, int32_t& space) {
    const auto best = by_space_.lower_bound(needed);
    if (best == by_space_.end()) return -1;
    space = best->first;
    const int64_t row = best->second.front();
    best->second.pop_front();
    if (best->second.empty()) by_space_.erase(best);
    return row;
  }
  void put(int64_t row, int32_t space) {
    if (space > 0) by_space_[space].push_back(row);
  }

 private:
  std::map<int32_t, std::deque<int64_t>> by_space_;
};

// Best-fit decreasing over `pieces`, appended to `rows`.
void append_best_fit(std::vector<Piece> pieces, int32_t max_length, PackedRows& rows) {
  std::stable_sort(pieces.begin(), pieces.end(),
                   [](const Piece& a, const Piece& b) { return a.length > b.length; });
  OpenRows open;
  std::vector<int64_t> row_of(pieces.size()), counts;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    int32_t space = max_length;
    int64_t row = open.take(pieces[i].length, space);
    if (row < 0) {
      row = static_cast<int64_t>(counts.size());
      counts.push_back(0);
    }
    open.put(row, space - pieces[i].length);
    row_of[i] = row;
    ++counts[static_cast<std::size_t>(row)];
  }

  const std::size_t first_row = rows.first_piece.size() - 1;
  for (const int64_t count : counts) rows.first_piece.push_back(rows.first_piece.back() + count);
  std::vector<int64_t> next(rows.first_piece.begin() + static_cast<int64_t>(first_row),
                            rows.first_piece.end() - 1);
  rows.pieces.resize(static_cast<std::size_t>(rows.first_piece.back()));
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    rows.pieces[static_cast<std::size_t>(next[static_cast<std::size_t>(row_of[i])]++)] = pieces[i];
  }
}

// The pieces of max_length that a document is cut into, the last one shorter; calls take(piece).
template <typename Take>
void split(const Piece& document, int32_t max_length, Take&& take) {
  for (int32_t begin = 0; begin < document.length; begin += std::min(max_length, document.length - begin)) {
    take(Piece{document.row, begin, std::min(max_length, document.length - begin)});
  }
}

void append_wrapped(const std::vector<Piece>& documents, int32_t max_length, PackedRows& rows) {
  int32_t space = max_length;
  const auto close_row = [&] {
    rows.first_piece.push_back(static_cast<int64_t>(rows.pieces.size()));
    space = max_length;
  };
  for (const Piece& document : documents) {
    for (int32_t begin = 0; begin < document.length;) {
      const int32_t length = std::min(space, document.length - begin);
      rows.pieces.push_back({document.row, begin, length});
      begin += length;
      space -= length;
      if (space == 0) close_row();
    }
  }
  if (space < max_length) close_row();
}

}  // namespace

PackedRows pack_documents(int64_t num_documents, const std::function<Piece(int64_t)>& document,
                          int64_t max_length, const Packing& packing) {
  const auto limit = static_cast<int32_t>(std::min<int64_t>(max_length, INT32_MAX));
  const int64_t scope = packing.scope > 0 ? packing.scope : num_documents;
  PackedRows rows;
  for (int64_t begin = 0; begin < num_documents; begin += scope) {
    std::vector<Piece> pieces;
    for (int64_t i = begin; i < std::min(begin + scope, num_documents); ++i) {
      Piece whole = document(i);
      if (packing.strategy == PackingStrategy::kBfdSplit) {
        split(whole, limit, [&](const Piece& piece) { pieces.push_back(piece); });
        continue;
      }
      if (packing.strategy == PackingStrategy::kBfd) whole.length = std::min(whole.length, limit);
      pieces.push_back(whole);
    }
    if (packing.strategy == PackingStrategy::kWrapped) {
      append_wrapped(pieces, limit, rows);
    } else {
      append_best_fit(std::move(pieces), limit, rows);
    }
  }
  return rows;
}

}  // namespace sft::data
