#include "sft/data/token_groups.h"

#include <algorithm>

#include "data/packing.h"
#include "sft/base/checked.h"

namespace sft::data {

std::vector<std::vector<int64_t>> group_by_tokens(const std::vector<int64_t>& rows,
                                                  const std::function<int64_t(int64_t)>& length,
                                                  int64_t max_tokens) {
  const auto row_at = [&](int64_t index) { return rows[static_cast<std::size_t>(index)]; };
  const auto document = [&](int64_t index) {
    return Piece{index, 0, base::narrow<int32_t>(length(row_at(index)))};
  };
  // What is longer than max_tokens counts as max_tokens here, and so is alone.
  const PackedRows packed =
      pack_documents(static_cast<int64_t>(rows.size()), document, max_tokens, {.scope = 0});

  struct Group {
    int64_t tokens = 0;
    std::vector<int64_t> indices;
  };
  std::vector<Group> groups(static_cast<std::size_t>(packed.size()));
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (const Piece& piece : packed.row(static_cast<int64_t>(g))) {
      groups[g].tokens += length(row_at(piece.row));
      groups[g].indices.push_back(piece.row);
    }
    std::ranges::sort(groups[g].indices);
  }
  std::ranges::stable_sort(groups, {}, &Group::tokens);
  std::vector<std::vector<int64_t>> result;
  for (Group& group : groups) {
    for (int64_t& index : group.indices) index = row_at(index);
    result.push_back(std::move(group.indices));
  }
  return result;
}

}  // namespace sft::data
