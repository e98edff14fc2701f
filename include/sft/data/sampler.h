// The order of rows, as transformers and accelerate make it (docs/numerics.md, "Data order").
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace sft::data {

// torch.randperm(n) on the CPU under torch.Generator().manual_seed(seed): mt19937, Fisher-Yates from the
// front.
std::vector<int64_t> torch_randperm(int64_t n, uint64_t seed);

// numpy.random.default_rng(seed).permutation(n), which datasets.Dataset.shuffle(seed) uses: PCG64,
// Fisher-Yates from the back.
std::vector<int64_t> numpy_permutation(int64_t n, uint64_t seed);

enum class SamplingStrategy { kRandom, kSequential, kGroupByLength };

// transformers' get_length_grouped_indices on an order that is already random: within each run of
// `batch_rows` x min(n / (4 batch_rows), 50) positions, at least one batch, longest first; and the longest
// row of all at the front.
std::vector<int64_t> group_by_length(std::vector<int64_t> order,
                                     const std::function<int64_t(int64_t)>& length, int64_t batch_rows);

// How an epoch is cut. B = micro_batch_size, W = world_size.
// Rank r, micro-step s, slot j reads position k = (s * W + r) * B + j of the epoch's order; positions >= n
// are empty slots (wrap_around = false) or read position k mod n again (wrap_around = true, what accelerate
// does when W > 1).
struct BatchLayout {
  int64_t num_rows = 0;                     // n
  int64_t micro_batch_size = 1;             // B
  int64_t world_size = 1;                   // W
  int64_t gradient_accumulation_steps = 1;  // micro-steps a window
  bool drop_last = false;
  bool wrap_around = false;

  int64_t micro_steps_per_epoch() const;  // L
  // Of an epoch from this position on, which need not be where a micro-step of this layout ends.
  int64_t micro_steps_left(int64_t position) const;
  int64_t steps_per_epoch() const;        // max(1, ceil(L / GAS))
  int64_t global_batch_size() const { return micro_batch_size * world_size * gradient_accumulation_steps; }
};

// The positions of the epoch's order that rank reads in this micro-step: at most B, none after the epoch's
// last micro-step. Micro-steps are counted from position `start`, where a resumed run goes on.
std::vector<int64_t> micro_batch_positions(const BatchLayout& layout, int64_t micro_step, int64_t rank,
                                           int64_t start = 0);

}  // namespace sft::data
