// Ends a run that no longer comes on, and says which rank it waited for.
//
// A thread of its own looks at the clock; the run tells it which section it is in. When a section lasts longer than its limit, the
// rank writes what it was doing and the stacks of its threads, reads what the other ranks wrote, one rank prints a verdict, and the
// process ends with exit code 86, from which the launcher ends the job. So it does, without reports, a second after another rank is
// known to have ended. The clock is monotonic, and time in which the process itself was stopped (a suspended job, a sleeping machine)
// does not count.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace sft::base {

enum class Section { kStart, kStep, kEvaluation, kCheckpoint, kFinish };

struct WatchdogLimits {  // seconds
  double start = 600;    // until the first step begins, and the first step
  double step = 30;      // a later step: at least this long, and five times what 99 of 100 steps took
  double evaluation = 3600;
  double checkpoint = 1800;
  double finish = 1800;
};

struct WatchdogRank {
  std::filesystem::path folder;    // for the reports of all ranks; shared, made when it is needed
  int rank = 0;
  std::vector<std::string> hosts;  // [world_size]
};

// All calls Local, from the main thread where nothing else is said.
class Watchdog {
 public:
  // Watching starts here, in kStart, before there is anything to ask for the other ranks (MPI's start can hang).
  explicit Watchdog(double start_seconds);
  ~Watchdog();  // watching ends
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // From here on, reports go to the rank's folder. Without it they go to stderr.
  void set_rank(WatchdogRank rank, const WatchdogLimits& limits);

  // A new section, or the same again (the next step): its time starts now.
  void enter(Section section);

  // From any thread, after set_rank(): this rank's process has ended. The launcher is given a second to end the others itself; it then
  // speaks of the rank that ended first, and not of this one.
  void lost(int rank);

  // A section inside another, whose time starts anew afterwards.
  class Scope {
   public:
    Scope(Watchdog& watchdog, Section section);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Watchdog& watchdog_;
    Section outer_;
  };
  [[nodiscard]] Scope scope(Section section) { return Scope(*this, section); }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sft::base
