#include "goodput.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "process_clock.h"

namespace sft::train {
namespace {

using nlohmann::json;

// What a loss of steps takes back.
struct Work {
  double productive = 0, evaluation = 0, checkpoint = 0, data = 0;

  double sum() const { return productive + evaluation + checkpoint + data; }
};

double number(const json& entry, const char* key, double otherwise = 0) {
  const auto found = entry.find(key);
  return found != entry.end() && found->is_number() ? found->get<double>() : otherwise;
}

// A process when it was last seen alive.
struct Sighting {
  double lived = 0;  // seconds, on its monotonic clock
  double time = 0;   // of day, Unix seconds
};

class Ledger {
 public:
  void take(const std::string& line) {
    const json entry = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!entry.is_object() || !entry.contains("event")) return;
    const json& event = entry["event"];
    if (event == "process") begin_process(entry);
    if (event == "startup") take_startup(entry);
    if (event == "timing") take_span(entry);
    ended_ = event == "goodput";
  }

  Goodput result() const {
    Goodput sums = sums_;
    sums.productive = work_.productive;
    sums.evaluation = work_.evaluation;
    sums.checkpoint = work_.checkpoint;
    sums.data = work_.data;
    sums.steps = step_;
    sums.wall = work_.sum() + sums.startup + sums.lost + sums.waiting;
    return sums;
  }

 private:
  void begin_process(const json& entry) {
    const double started = number(entry, "process_started");
    if (sums_.starts > 0) end_process(entry, started);
    ++sums_.starts;
    process_started_ = started;
    const double time = number(entry, "time");
    seen_ = {.lived = std::max(0.0, time - started), .time = time};
    accounted_ = 0;
    began_steps_ = false;
    go_on_from(static_cast<int64_t>(number(entry, "step")));
  }

  // The time after what it logged, unless it ended in order, and until the next one.
  void end_process(const json& next, double next_started) {
    const auto heartbeat = next.find("last_sign_of_life");
    if (!ended_ && heartbeat != next.end() && number(*heartbeat, "process_started") == process_started_)
      see({.lived = number(*heartbeat, "seconds"), .time = number(*heartbeat, "time")});
    (began_steps_ ? sums_.lost : sums_.startup) += std::max(0.0, seen_.lived - accounted_);
    sums_.waiting += std::max(0.0, next_started - seen_.time);
  }

  void see(const Sighting& sighting) {
    if (sighting.lived >= seen_.lived) seen_ = sighting;
  }

  // What was done since that step, and was not saved, is lost.
  void go_on_from(int64_t step) {
    if (step < step_) {
      const auto later = marks_.upper_bound(step);
      const Work before = later == marks_.begin() ? Work{} : std::prev(later)->second;
      marks_.erase(later, marks_.end());
      sums_.lost += work_.sum() - before.sum();
      sums_.steps_lost += step_ - step;
      work_ = before;
    }
    step_ = step;
  }

  void take_startup(const json& entry) {
    const double seconds = number(entry, "seconds");
    sums_.startup += seconds;
    account(seconds, entry);
    began_steps_ = true;
  }

  void take_span(const json& entry) {
    const double seconds = number(entry, "seconds"), evaluation = number(entry, "evaluation"),
                 checkpoint = number(entry, "checkpoint"), data = number(entry, "data");
    work_.evaluation += evaluation;
    work_.checkpoint += checkpoint;
    work_.data += data;
    work_.productive += seconds - evaluation - checkpoint - data;
    account(seconds, entry);
    step_ = static_cast<int64_t>(number(entry, "step"));
    marks_[step_] = work_;
  }

  void account(double seconds, const json& entry) {
    accounted_ += seconds;
    see({.lived = accounted_, .time = number(entry, "time")});
  }

  Goodput sums_;  // what is never taken back
  Work work_;
  std::map<int64_t, Work> marks_;  // after this step
  int64_t step_ = 0;
  double process_started_ = 0;  // Unix seconds
  double accounted_ = 0;        // seconds of this process
  Sighting seen_;
  bool began_steps_ = false, ended_ = false;
};

std::string duration_text(double seconds) {
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace

std::string Goodput::to_json() const {
  return json{{"goodput", share()},
              {"wall_seconds", wall},
              {"productive_seconds", productive},
              {"evaluation_seconds", evaluation},
              {"checkpoint_seconds", checkpoint},
              {"data_seconds", data},
              {"startup_seconds", startup},
              {"lost_seconds", lost},
              {"waiting_seconds", waiting},
              {"starts", starts},
              {"steps", steps},
              {"steps_lost", steps_lost}}
      .dump();
}

std::string Goodput::to_text() const {
  return fmt::format(
      "goodput {:.1f} % of {} ({} start{}): productive {}, evaluation {}, checkpoint stall {}, data stall "
      "{}, startup "
      "{}, lost {} ({} steps made again), waiting {}",
      100 * share(), duration_text(wall), starts, starts == 1 ? "" : "s", duration_text(productive),
      duration_text(evaluation), duration_text(checkpoint), duration_text(data), duration_text(startup),
      duration_text(lost), steps_lost, duration_text(waiting));
}

Goodput goodput_of_log(std::istream& log) {
  Ledger ledger;
  for (std::string line; std::getline(log, line);) ledger.take(line);
  return ledger.result();
}

void log_process_start(metrics::TrainLog& log, const std::filesystem::path& heartbeat, int64_t step) {
  std::ifstream file(heartbeat);
  json last = json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!last.is_object()) last = nullptr;
  log.event("process", step,
            json{{"process_started", process_started()}, {"last_sign_of_life", std::move(last)}}.dump());
}

double best_save_interval(double save_seconds, double mean_seconds_between_failures) {
  const double d = save_seconds, m = mean_seconds_between_failures;
  if (d >= 2 * m) return m;
  const double ratio = d / (2 * m);
  return std::sqrt(2 * d * m) * (1 + std::sqrt(ratio) / 3 + ratio / 9) - d;
}

}  // namespace sft::train
