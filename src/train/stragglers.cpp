#include "stragglers.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "median.h"

namespace sft::train {
namespace {

using base::Phase;

constexpr double kMicro = 1e6, kKilo = 1e3;

// Every rank's value over the median; all 0 where the median is.
std::vector<double> over_median(const std::vector<RankTimes>& ranks,
                                const std::function<double(const RankTimes&)>& value) {
  std::vector<double> values;
  for (const RankTimes& times : ranks) values.push_back(value(times));
  const double middle = median(values);
  for (double& entry : values) entry = middle > 0 ? entry / middle : 0;
  return values;
}

}  // namespace

void RankTimes::add(const base::PhaseTimers::Seconds& phases, double seconds) {
  const auto of = [&](Phase phase) { return phases[static_cast<std::size_t>(phase)]; };
  const double worked = of(Phase::kData) + of(Phase::kForward) + of(Phase::kBackward) + of(Phase::kOptimizer);
  total += seconds;
  work += worked;
  data += of(Phase::kData);
  wait += seconds - worked - of(Phase::kEvaluation) - of(Phase::kCheckpoint) - of(Phase::kLogging);
}

RankTimes& RankTimes::operator+=(const RankTimes& more) {
  total += more.total;
  work += more.work;
  data += more.data;
  wait += more.wait;
  flops += more.flops;
  return *this;
}

std::vector<RankTimes> gather(parallel::Communicator& comm, const RankTimes& mine) {
  constexpr std::size_t kFields = 5;
  std::vector<int64_t> sums(static_cast<std::size_t>(comm.size()) * kFields, 0);
  int64_t* own = sums.data() + static_cast<std::size_t>(comm.rank()) * kFields;
  *own++ = std::llround(mine.total * kMicro);
  *own++ = std::llround(mine.work * kMicro);
  *own++ = std::llround(mine.data * kMicro);
  *own++ = std::llround(mine.wait * kMicro);
  *own = std::llround(mine.flops / kKilo);
  comm.all_reduce(sums);
  std::vector<RankTimes> ranks;
  for (std::size_t at = 0; at < sums.size(); at += kFields) {
    const auto seconds = [&](std::size_t field) { return static_cast<double>(sums[at + field]) / kMicro; };
    ranks.push_back({.total = seconds(0),
                     .work = seconds(1),
                     .data = seconds(2),
                     .wait = seconds(3),
                     .flops = static_cast<double>(sums[at + 4]) * kKilo});
  }
  return ranks;
}

std::vector<Straggler> StragglerWatch::take(const std::vector<RankTimes>& ranks) {
  window_.resize(ranks.size());
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) window_[rank] += ranks[rank];
  if (window_.front().total < kShortestWindow) return {};
  const std::vector<RankTimes> window = std::exchange(window_, {});
  behind_in_row_.resize(window.size(), 0);
  const auto as_it_is = over_median(window, [](const RankTimes& times) { return times.work; });
  const auto per_operation = over_median(
      window, [](const RankTimes& times) { return times.flops > 0 ? times.work / times.flops : 0; });
  std::vector<Straggler> found;
  for (std::size_t rank = 0; rank < window.size(); ++rank) {
    const double behind = std::min(as_it_is[rank], per_operation[rank]) - 1;
    behind_in_row_[rank] = behind >= kBehind ? behind_in_row_[rank] + 1 : 0;
    if (behind_in_row_[rank] == kWindows) found.push_back({static_cast<int>(rank), behind, window[rank]});
  }
  return found;
}

}  // namespace sft::train
