// Rows dealt to ranks and grouped into micro-batches by their tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace sft::data {

// `rows` in `ranks` parts of nearly equal tokens: longest first, each to the part that has the fewest so far,
// so that no two parts differ by more than the longest row. Within a part rows keep their order. O(n log n).
std::vector<std::vector<int64_t>> deal_by_tokens(const std::vector<int64_t>& rows,
                                                 const std::function<int64_t(int64_t)>& length,
                                                 int64_t ranks);

// `rows` in groups whose lengths sum to at most max_tokens, a longer row alone: best-fit decreasing, so few
// groups, well filled. The fullest group is last; within a group rows keep their order. O(n log n).
std::vector<std::vector<int64_t>> group_by_tokens(const std::vector<int64_t>& rows,
                                                  const std::function<int64_t(int64_t)>& length,
                                                  int64_t max_tokens);

}  // namespace sft::data
