#include "sft/data/sampler.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>

#include "data/random_draw.h"
#include "sft/base/checked.h"

namespace sft::data {
namespace {

std::vector<int64_t> identity(int64_t n) {
  std::vector<int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  return order;
}

}  // namespace

std::vector<int64_t> torch_randperm_narrow(int64_t n, uint64_t seed) {
  std::vector<int64_t> order = identity(n);
  std::mt19937 generator(static_cast<uint32_t>(seed));
  for (std::size_t i = 0; i + 1 < order.size(); ++i) {
    std::swap(order[i], order[i + generator() % (order.size() - i)]);
  }
  return order;
}

std::vector<int64_t> torch_randperm_wide(int64_t n, uint64_t seed) {
  std::vector<int64_t> order(static_cast<std::size_t>(n));
  std::mt19937 generator(static_cast<uint32_t>(seed));
  for (std::size_t i = 0; i < order.size(); ++i) {
    const uint64_t high = generator();
    const uint64_t j = (high << 32 | generator()) % (i + 1);
    order[i] = order[j];
    order[j] = static_cast<int64_t>(i);
  }
  return order;
}

std::vector<int64_t> torch_randperm(int64_t n, uint64_t seed) {
  return n < kTorchWideRows ? torch_randperm_narrow(n, seed) : torch_randperm_wide(n, seed);
}

std::vector<int64_t> numpy_permutation(int64_t n, uint64_t seed) {
  std::vector<int64_t> order = identity(n);
  NumpyDraw draw(seed);
  for (std::size_t i = order.size(); i-- > 1;) std::swap(order[i], order[draw.up_to(i)]);
  return order;
}

std::vector<int64_t> group_by_length(std::vector<int64_t> order,
                                     const std::function<int64_t(int64_t)>& length, int64_t batch_rows) {
  const int64_t n = static_cast<int64_t>(order.size());
  const int64_t group = batch_rows * std::max<int64_t>(1, std::min<int64_t>(n / (batch_rows * 4), 50));
  auto longest = order.begin();  // the first row of the group that has the longest
  for (int64_t begin = 0; begin < n; begin += group) {
    const auto first = order.begin() + begin, last = order.begin() + std::min(begin + group, n);
    std::stable_sort(first, last, [&](int64_t a, int64_t b) { return length(a) > length(b); });
    if (length(*first) > length(*longest)) longest = first;
  }
  if (n > 0) std::iter_swap(order.begin(), longest);
  return order;
}

int64_t BatchLayout::micro_steps_per_epoch() const {
  return micro_steps_left(0);
}

int64_t BatchLayout::micro_steps_left(int64_t position) const {
  const int64_t rows_left = std::max<int64_t>(0, num_rows - position);
  const int64_t rows_per_micro_step = micro_batch_size * world_size;
  return drop_last ? rows_left / rows_per_micro_step : base::ceil_div(rows_left, rows_per_micro_step);
}

int64_t BatchLayout::steps_per_epoch() const {
  return std::max<int64_t>(1, base::ceil_div(micro_steps_per_epoch(), gradient_accumulation_steps));
}

std::vector<int64_t> micro_batch_positions(const BatchLayout& layout, int64_t micro_step, int64_t rank,
                                           int64_t start) {
  const bool wraps = layout.wrap_around && layout.world_size > 1;
  const int64_t micro_step_begin = start + micro_step * layout.world_size * layout.micro_batch_size;
  const int64_t micro_step_end = micro_step_begin + layout.world_size * layout.micro_batch_size;
  std::vector<int64_t> positions;
  if (micro_step_begin >= layout.num_rows || (layout.drop_last && micro_step_end > layout.num_rows))
    return positions;
  const int64_t first = micro_step_begin + rank * layout.micro_batch_size;
  for (int64_t k = first; k < first + layout.micro_batch_size; ++k) {
    if (k < layout.num_rows || wraps) positions.push_back(k % layout.num_rows);
  }
  return positions;
}

}  // namespace sft::data
