#include "sft/data/token_groups.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <utility>

#include "data/packing.h"
#include "sft/base/checked.h"

namespace sft::data {

std::vector<std::vector<int64_t>> deal_by_tokens(const std::vector<int64_t>& rows,
                                                 const std::function<int64_t(int64_t)>& length,
                                                 int64_t ranks) {
  using Item = std::pair<int64_t, int64_t>;
  std::vector<Item> longest_first;  // length, index into rows
  for (std::size_t i = 0; i < rows.size(); ++i)
    longest_first.emplace_back(length(rows[i]), static_cast<int64_t>(i));
  std::ranges::stable_sort(longest_first, std::ranges::greater(), &Item::first);
  std::priority_queue<Item, std::vector<Item>, std::greater<>> emptiest;  // tokens, part
  for (int64_t part = 0; part < ranks; ++part) emptiest.emplace(0, part);

  std::vector<std::vector<int64_t>> indices(static_cast<std::size_t>(ranks)), parts(indices.size());
  for (const auto& [tokens, index] : longest_first) {
    const auto [held, part] = emptiest.top();
    emptiest.pop();
    emptiest.emplace(held + tokens, part);
    indices[static_cast<std::size_t>(part)].push_back(index);
  }
  for (std::size_t part = 0; part < parts.size(); ++part) {
    std::ranges::sort(indices[part]);
    for (const int64_t index : indices[part]) parts[part].push_back(rows[static_cast<std::size_t>(index)]);
  }
  return parts;
}

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
