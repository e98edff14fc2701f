// What the time of a run went into, over all its starts: from trainer_log.jsonl, which every start appends
// to.
//
// The log is the only state. A process that is killed leaves what it had logged, and the heartbeat file tells
// how long it lived; the next start puts that into the log (log_process_start).
//
// What a process did is measured on its monotonic clock. The time of day is asked only for the gap between
// one process and the next: when the last one was seen, when the next one started. A clock that jumps while a
// process runs changes nothing; one that is set back between two makes the gap shorter, never negative.
#pragma once

#include <cstdint>
#include <filesystem>
#include <istream>
#include <string>

#include "sft/metrics/log.h"

namespace sft::train {

// Seconds, as rank 0 sees them. The seven parts add up to `wall`.
struct Goodput {
  double wall = 0;        // from the first process's start to where the last one was accounted for
  double productive = 0;  // steps, without what follows
  double evaluation = 0;
  double checkpoint = 0;  // training stood still for a save
  double data = 0;        // ... for the next rows
  double startup = 0;     // from the start of a process to its first step
  double lost = 0;        // work that was thrown away: since the checkpoint that the next start went on from
  double waiting = 0;     // no process was there
  int64_t starts = 0;
  int64_t steps = 0;       // where the run is
  int64_t steps_lost = 0;  // made, thrown away and to be made again

  double share() const { return wall > 0 ? productive / wall : 0; }
  std::string to_json() const;  // an object: goodput (0 to 1), wall_seconds, productive_seconds, ...
  std::string to_text() const;  // one line
};

// Local. Lines that are no entries are passed over.
Goodput goodput_of_log(std::istream& log);

// Local; does something on rank 0 only, before this process's heartbeat begins. The event `process`: when it
// started, where it goes on from (step), and the last sign of life of the process before: its heartbeat
// file's content, null without one.
void log_process_start(metrics::TrainLog& log, const std::filesystem::path& heartbeat, int64_t step);

// Seconds between saves that lose least time, for saves that stop a run for `save_seconds` and failures that
// are `mean_seconds_between_failures` apart; with d and M for these
//
//   sqrt(2 d M) (1 + sqrt(d / 2M) / 3 + (d / 2M) / 9) - d,   M where d >= 2M
//
// J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 22 (2006);
// the first factor alone is J. W. Young's, "A first order approximation to the optimum checkpoint interval",
// CACM 17 (1974).
double best_save_interval(double save_seconds, double mean_seconds_between_failures);

}  // namespace sft::train
