#include "time_account.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "goodput.h"
#include "process_clock.h"
#include "sft/base/error.h"
#include "sft/base/file.h"
#include "sft/base/log.h"

namespace sft::train {
namespace {

using base::Phase;
using nlohmann::json;

double of(const base::PhaseTimers::Seconds& phases, Phase phase) {
  return phases[static_cast<std::size_t>(phase)];
}

std::string rank_times_json(const std::vector<RankTimes>& ranks) {
  json details{
      {"seconds", json::array()}, {"work", json::array()}, {"data", json::array()}, {"wait", json::array()}};
  for (const RankTimes& times : ranks) {
    details["seconds"].push_back(times.total);
    details["work"].push_back(times.work);
    details["data"].push_back(times.data);
    details["wait"].push_back(times.wait);
  }
  return details.dump();
}

}  // namespace

TimeAccount::TimeAccount(TimeAccountOptions options, parallel::Communicator& comm, base::PhaseTimers& timers,
                         metrics::TrainLog& log)
    : options_(std::move(options)), comm_(comm), timers_(timers), log_(log) {}

void TimeAccount::begin(int64_t step) {
  timers_.take();
  span_started_ = base::monotonic_seconds();
  span_step_ = step;
  log_.event("startup", step, json{{"seconds", seconds_since_process_start()}}.dump());
}

void TimeAccount::cut(int64_t step) {
  const base::PhaseTimers::Seconds phases = timers_.take();
  const double now = base::monotonic_seconds(), seconds = now - span_started_;
  json details{{"steps", step - span_step_}, {"seconds", seconds}};
  double rest = seconds;
  for (std::size_t i = 0; i < base::kNumPhases; ++i) {
    details[base::phase_name(static_cast<Phase>(i))] = phases[i];
    rest -= phases[i];
  }
  details["other"] = rest;
  log_.event("timing", step, details.dump());
  window_.add(phases, seconds);
  step_seconds_ += seconds - of(phases, Phase::kEvaluation) - of(phases, Phase::kCheckpoint);
  steps_ += step - span_step_;
  span_started_ = now;
  span_step_ = step;
}

void TimeAccount::log_entry(int64_t step) {
  cut(step);
  const RankTimes mine = std::exchange(window_, {});
  if (comm_.size() == 1) return;
  const auto waiting = timers_.scope(Phase::kCommunication);
  const std::vector<RankTimes> ranks = gather(comm_, mine);
  log_.event("rank_times", step, rank_times_json(ranks));
  for (const Straggler& straggler : stragglers_.take(ranks)) {
    const auto rank = static_cast<std::size_t>(straggler.rank);
    const RankTimes& times = straggler.times;
    log_.event("straggler", step,
               json{{"rank", straggler.rank},
                    {"host", options_.hosts[rank]},
                    {"behind", straggler.behind},
                    {"work", times.work},
                    {"data", times.data},
                    {"wait", times.wait}}
                   .dump());
    if (comm_.rank() != 0) continue;
    log::warning(
        "rank {} ({}) is behind: {} times in a row its own work took at least {:.0f} % longer than the "
        "median of "
        "all ranks, at last {:.0f} % ({:.2f} s, of it {:.2f} s for data)",
        straggler.rank, options_.hosts[rank], StragglerWatch::kWindows, 100 * StragglerWatch::kBehind,
        100 * straggler.behind, times.work, times.data);
  }
}

void TimeAccount::committed(int64_t step, double stall_seconds) {
  cut(step);
  if (stall_seconds > 0 && steps_ > 0 && !advised_) advise(stall_seconds);
}

void TimeAccount::advise(double save_seconds) {
  advised_ = true;
  if (!options_.mean_minutes_between_failures || comm_.rank() != 0) return;
  constexpr double kMinute = 60;
  const double seconds = best_save_interval(save_seconds, *options_.mean_minutes_between_failures * kMinute);
  const double seconds_per_step = step_seconds_ / static_cast<double>(steps_);
  log::info(
      "the save stopped training for {:.3g} s; with mean_minutes_between_failures = {} least time is lost "
      "with {:.3g} minutes of steps between saves (Daly 2006), which is save_steps = {} at {:.3g} s a step",
      save_seconds, *options_.mean_minutes_between_failures, seconds / kMinute,
      std::max<int64_t>(1, std::llround(seconds / seconds_per_step)), seconds_per_step);
}

void TimeAccount::end(int64_t step) {
  cut(step);
  if (comm_.rank() != 0) return;
  std::ifstream entries(options_.output_dir / "trainer_log.jsonl");
  const Goodput goodput = goodput_of_log(entries);
  log_.event("goodput", step, goodput.to_json());
  log::info("{}", goodput.to_text());
  try {
    base::write_text_atomically(options_.output_dir / "goodput.json",
                                json::parse(goodput.to_json()).dump(2) + "\n");
  } catch (const base::Error& error) {  // as with the log: nothing a finished run should fail for
    log::warning("goodput.json is not written: {}", error.what());
  }
}

}  // namespace sft::train
