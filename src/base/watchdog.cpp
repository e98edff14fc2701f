#include "sft/base/watchdog.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <mutex>
#include <optional>
#include <thread>

#include "hang_report.h"
#include "sft/base/activity.h"
#include "sft/base/error.h"
#include "sft/base/timer.h"
#include "stacks.h"

namespace sft::base {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr milliseconds kLook{200};
constexpr double kStoppedSeconds = 5;  // a look that comes so late: the process itself was stopped
constexpr double kOthersReportSeconds = 2;
constexpr double kLauncherSeconds = 1;  // to end all, when a rank has ended
constexpr milliseconds kStoragePatience{10'000};  // for writing a report, reading the others' and the verdict
constexpr std::size_t kStepsRemembered = 512;
constexpr double kStepFactor = 5;

const char* section_name(Section section) {
  constexpr std::array kNames{"start", "step", "evaluation", "checkpoint", "finish"};
  return kNames[static_cast<std::size_t>(section)];
}

HangReport make_report(const WatchdogRank& rank, Section section, double seconds, double limit) {
  const activity::State state = activity::now();
  HangReport report;
  report.rank = rank.rank;
  report.host = rank.hosts.empty() ? "" : rank.hosts[static_cast<std::size_t>(rank.rank)];
  report.section = section_name(section);
  report.phase = state.phase;
  report.seconds = seconds;
  report.limit = limit;
  report.step = state.step;
  report.micro_step = state.micro_step;
  report.block = state.block;
  report.control = {state.control.name, state.control.sequence, state.control.inside};
  report.data = {state.data.name, state.data.sequence, state.data.inside};
  report.stacks = all_stacks();
  return report;
}

fs::path report_path(const WatchdogRank& place, int rank) {
  return place.folder / fmt::format("rank-{}.json", rank);
}

// Readers see the whole report or none. Errors leave no report: this rank is then named as silent.
void write_report(const WatchdogRank& place, const HangReport& report) {
  std::error_code error;
  fs::create_directories(place.folder, error);
  const fs::path path = report_path(place, report.rank), temporary = path.string() + ".tmp";
  std::ofstream(temporary) << to_json(report);
  fs::rename(temporary, path, error);
}

std::optional<HangReport> read_report(const fs::path& path) {
  std::ifstream stream(path);
  if (!stream) return std::nullopt;
  return hang_report_from_json(std::string(std::istreambuf_iterator<char>(stream), {}));
}

// Ranks notice within moments of each other: wait a little for all reports.
std::vector<std::optional<HangReport>> reports_of_all(const WatchdogRank& place, const HangReport& own) {
  std::vector<std::optional<HangReport>> reports(place.hosts.size());
  reports[static_cast<std::size_t>(place.rank)] = own;  // also where the folder cannot be written
  const double give_up = monotonic_seconds() + kOthersReportSeconds;
  for (bool all = false; !all && monotonic_seconds() < give_up;
       std::this_thread::sleep_for(milliseconds(50))) {
    all = true;
    for (std::size_t r = 0; r < reports.size(); ++r) {
      if (!reports[r]) reports[r] = read_report(report_path(place, static_cast<int>(r)));
      all = all && reports[r].has_value();
    }
  }
  return reports;
}

fs::path verdict_path(const WatchdogRank& place) {
  return place.folder / "verdict.txt";
}

// The first rank to come to a verdict speaks for all; where the folder cannot be written, each speaks.
bool claim_verdict(const WatchdogRank& place, const std::string& verdict) {
  const int descriptor =
      ::open(verdict_path(place).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0) return errno != EEXIST;
  static_cast<void>(!::write(descriptor, verdict.data(), verdict.size()));
  ::close(descriptor);
  return true;
}

// Straight to the descriptor: a thread that is stuck may hold stdio's or the log's lock.
void say(const std::string& text) {
  static_cast<void>(!::write(STDERR_FILENO, text.data(), text.size()));
}

// Storage that does not answer holds the thread that writes to it for ever; it may be why there was no progress.
void exit_if_storage_hangs(std::string what_then) {
  std::thread([text = std::move(what_then)] {
    std::this_thread::sleep_for(kStoragePatience);
    say(text);
    ::_exit(static_cast<int>(ExitCode::kHang));
  }).detach();
}

[[noreturn]] void report_and_exit(const WatchdogRank& place, Section section, double seconds, double limit) {
  const HangReport report = make_report(place, section, seconds, limit);
  if (place.hosts.empty()) {
    say(
        fmt::format("error: no progress for {:.0f} s (section {}, phase {}): a rank may not have started, or "
                    "cannot reach the others\n{}",
                    seconds, report.section, report.phase, report.stacks));
    ::_exit(static_cast<int>(ExitCode::kHang));
  }
  exit_if_storage_hangs(fmt::format(
      "error: rank {} ({}): no progress for {:.0f} s (section {}, phase {}, step {}), and {} does not answer\n{}",
      report.rank, report.host, report.seconds, report.section, report.phase, report.step, place.folder.string(),
      report.stacks));
  write_report(place, report);
  const std::string verdict =
      fmt::format("error: no progress for {:.0f} s (limit {:.0f} s): {}. Reports with all stacks: {}\n",
                  seconds, limit, hang_verdict(reports_of_all(place, report), place.hosts), place.folder.string());
  if (claim_verdict(place, verdict)) {
    say(verdict);
  } else {
    std::this_thread::sleep_for(
        milliseconds(500));  // the launcher ends all when the first rank ends: let the speaker be heard
  }
  ::_exit(static_cast<int>(ExitCode::kHang));
}

// The lowest of the ranks that are left speaks, unless a verdict names a rank that hung: the lost one ended of it.
[[noreturn]] void exit_for_lost(const WatchdogRank& place, const std::vector<int>& lost) {
  std::string who;
  for (const int rank : lost)
    who += fmt::format("{}rank {} ({})", who.empty() ? "" : ", ", rank, place.hosts[static_cast<std::size_t>(rank)]);
  const std::string text =
      fmt::format("error: {} has ended, and the others with it: its own messages, or the launcher's, say why\n", who);
  int speaker = 0;
  while (std::find(lost.begin(), lost.end(), speaker) != lost.end()) ++speaker;
  exit_if_storage_hangs("");
  std::error_code none;
  if (speaker == place.rank && !fs::exists(verdict_path(place), none)) say(text);
  ::_exit(static_cast<int>(ExitCode::kHang));
}

}  // namespace

struct Watchdog::Impl {
  std::mutex mutex;
  std::condition_variable changed;
  bool closed = false;
  Section section = Section::kStart;
  double since = monotonic_seconds();
  WatchdogLimits limits;
  WatchdogRank rank;
  std::vector<double> step_seconds;  // the last kStepsRemembered, as a ring
  std::size_t steps_seen = 0;
  std::vector<int> lost;  // ranks
  double lost_since = 0;  // the first of them
  std::thread thread;

  void remember_step(double seconds) {
    if (step_seconds.size() < kStepsRemembered) {
      step_seconds.push_back(seconds);
    } else {
      step_seconds[steps_seen % kStepsRemembered] = seconds;
    }
    ++steps_seen;
  }

  double step_limit() const {
    if (step_seconds.empty()) return limits.start;
    std::vector<double> sorted = step_seconds;
    const auto slow = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() * 99 / 100);
    std::nth_element(sorted.begin(), slow, sorted.end());
    return std::max(limits.step, kStepFactor * *slow);
  }

  double limit() const {
    switch (section) {
      case Section::kStart:
        return limits.start;
      case Section::kStep:
        return step_limit();
      case Section::kEvaluation:
        return limits.evaluation;
      case Section::kCheckpoint:
        return limits.checkpoint;
      case Section::kFinish:
        return limits.finish;
    }
    return limits.start;
  }

  void watch() {
    std::unique_lock lock(mutex);
    for (double looked = monotonic_seconds(); !changed.wait_for(lock, kLook, [this] { return closed; });) {
      const double now = monotonic_seconds();
      if (now - looked > kStoppedSeconds) since += now - looked;
      looked = now;
      const double seconds = now - since, allowed = limit();
      const bool alone = !lost.empty() && now - lost_since > kLauncherSeconds;
      if (seconds <= allowed && !alone) continue;
      const WatchdogRank place = rank;
      const std::vector<int> ended = lost;
      const Section late = section;
      lock.unlock();
      if (alone) exit_for_lost(place, ended);
      report_and_exit(place, late, seconds, allowed);
    }
  }
};

Watchdog::Watchdog(double start_seconds) : impl_(std::make_unique<Impl>()) {
  impl_->limits.start = start_seconds;
  prepare_stacks();
  impl_->thread = std::thread([impl = impl_.get()] { impl->watch(); });
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->closed = true;
  }
  impl_->changed.notify_all();
  impl_->thread.join();
}

void Watchdog::set_rank(WatchdogRank rank, const WatchdogLimits& limits) {
  const std::lock_guard lock(impl_->mutex);
  impl_->rank = std::move(rank);
  impl_->limits = limits;
}

void Watchdog::enter(Section section) {
  const std::lock_guard lock(impl_->mutex);
  const double now = monotonic_seconds();
  if (impl_->section == Section::kStep) impl_->remember_step(now - impl_->since);
  impl_->section = section;
  impl_->since = now;
}

void Watchdog::lost(int rank) {
  const std::lock_guard lock(impl_->mutex);
  if (impl_->lost.empty()) impl_->lost_since = monotonic_seconds();
  impl_->lost.push_back(rank);
}

Watchdog::Scope::Scope(Watchdog& watchdog, Section section)
    : watchdog_(watchdog), outer_(watchdog.impl_->section) {
  watchdog_.enter(section);
}

Watchdog::Scope::~Scope() {
  watchdog_.enter(outer_);
}

}  // namespace sft::base
