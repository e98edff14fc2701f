#include "goodput.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cmath>
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

class Ledger {
 public:
  void take(const std::string& line) {
    const json entry = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!entry.is_object() || !entry.contains("event")) return;
    const json& event = entry["event"];
    if (event == "process") begin_process(entry);
    if (event == "startup") take_startup(number(entry, "seconds"));
    if (event == "timing") take_span(entry);
    ended_ = event == "goodput";
    last_time_ = std::max(last_time_, number(entry, "time"));
  }

  Goodput result() const {
    Goodput sums = sums_;
    sums.productive = work_.productive;
    sums.evaluation = work_.evaluation;
    sums.checkpoint = work_.checkpoint;
    sums.data = work_.data;
    sums.steps = step_;
    sums.wall = sums.starts > 0 ? last_time_ - first_started_ : 0;
    return sums;
  }

 private:
  void begin_process(const json& entry) {
    const double started = number(entry, "process_started");
    if (sums_.starts == 0) {
      first_started_ = started;
    } else {
      end_process(number(entry, "last_sign_of_life"), started);
    }
    ++sums_.starts;
    process_started_ = started;
    accounted_ = 0;
    began_steps_ = false;
    go_on_from(static_cast<int64_t>(number(entry, "step")));
  }

  // The time after its last entry: nothing when it ended in order.
  void end_process(double last_sign_of_life, double next_started) {
    const double until = ended_ ? last_time_ : std::max(last_time_, last_sign_of_life);
    const double end = std::clamp(until, process_started_, std::max(process_started_, next_started));
    const double rest = std::max(0.0, end - process_started_ - accounted_);
    if (!ended_) (began_steps_ ? sums_.lost : sums_.startup) += rest;
    sums_.waiting += std::max(0.0, next_started - end);
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

  void take_startup(double seconds) {
    sums_.startup += seconds;
    accounted_ += seconds;
    began_steps_ = true;
  }

  void take_span(const json& entry) {
    const double seconds = number(entry, "seconds"), evaluation = number(entry, "evaluation"),
                 checkpoint = number(entry, "checkpoint"), data = number(entry, "data");
    work_.evaluation += evaluation;
    work_.checkpoint += checkpoint;
    work_.data += data;
    work_.productive += seconds - evaluation - checkpoint - data;
    accounted_ += seconds;
    step_ = static_cast<int64_t>(number(entry, "step"));
    marks_[step_] = work_;
  }

  Goodput sums_;  // what is never taken back
  Work work_;
  std::map<int64_t, Work> marks_;  // after this step
  int64_t step_ = 0;
  double first_started_ = 0, process_started_ = 0, last_time_ = 0;  // Unix seconds
  double accounted_ = 0;                                            // seconds of this process
  bool began_steps_ = false, ended_ = false;
};

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

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
  json details{{"process_started", unix_seconds() - seconds_since_process_start()},
               {"last_sign_of_life", nullptr}};
  struct stat status {};
  if (::stat(heartbeat.c_str(), &status) == 0) {
    details["last_sign_of_life"] =
        static_cast<double>(status.st_mtim.tv_sec) + 1e-9 * static_cast<double>(status.st_mtim.tv_nsec);
  }
  log.event("process", step, details.dump());
}

double best_save_interval(double save_seconds, double mean_seconds_between_failures) {
  const double d = save_seconds, m = mean_seconds_between_failures;
  if (d >= 2 * m) return m;
  const double ratio = d / (2 * m);
  return std::sqrt(2 * d * m) * (1 + std::sqrt(ratio) / 3 + ratio / 9) - d;
}

}  // namespace sft::train
