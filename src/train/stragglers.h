// Ranks whose own work takes longer than that of the others: for them everybody waits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sft/base/timer.h"
#include "sft/parallel/communicator.h"

namespace sft::train {

// Where a rank's time between two log entries went, in seconds.
struct RankTimes {
  double total = 0;
  double work = 0;   // data, forward, backward, optimizer: what does not wait for another rank
  double data = 0;   // the part of it in which the loader's next window was not there yet
  double wait = 0;   // the rest, without evaluation, checkpoints and logging: for other ranks
  double flops = 0;  // what the work came to, by the model's formula (sft/metrics/throughput.h)

  void add(const base::PhaseTimers::Seconds& phases, double seconds);
  RankTimes& operator+=(const RankTimes& more);
};

// Collective: one reduction. Every rank's, in rank order, to the microsecond and to 1000 operations.
std::vector<RankTimes> gather(parallel::Communicator& comm, const RankTimes& mine);

struct Straggler {
  int rank = 0;
  double behind = 0;     // 0.25: its work took 1.25 times the median
  RankTimes times = {};  // of its last window
};

// A window is a log entry, or several that last a second together: what is shorter says more about the
// machine's other work than about the rank. A rank is behind in it when its work took at least 1.1 times the
// median of all ranks, both as it is and for each operation: a rank that was dealt longer rows takes longer
// but is no slower, and a rank with hardly any rows has a time for each operation that says nothing.
class StragglerWatch {
 public:
  static constexpr double kBehind = 0.1;
  static constexpr int64_t kWindows = 3;
  static constexpr double kShortestWindow = 1;  // seconds

  // Local, the same on all ranks. Takes a log entry's times; returns those that have now been behind for
  // three windows in a row, each once until it has been in time again.
  std::vector<Straggler> take(const std::vector<RankTimes>& ranks);

 private:
  std::vector<RankTimes> window_;  // until it is long enough
  std::vector<int64_t> behind_in_row_;
};

}  // namespace sft::train
