// What asks a run, from outside its ranks, to save or to stop between two steps: files that a person makes in output_dir, and the clock.
#pragma once

#include <filesystem>
#include <optional>

namespace sft::train {

struct RunRequestOptions {
  std::filesystem::path output_dir;
  std::optional<double> max_run_minutes;           // of this process, from its start
  std::optional<double> save_on_interval_minutes;  // between saves
};

// Local; rank 0 looks for all.
class RunRequests {
 public:
  explicit RunRequests(RunRequestOptions options);

  struct Asked {
    bool save = false;     // output_dir/save-now exists, or the interval has passed
    bool requeue = false;  // max_run_minutes has passed: save, and be run again
    bool stop = false;     // output_dir/stop exists: save, and do not
  };
  Asked look() const;

  void saved();    // a save was made, or is on its way: forgets save-now, and the interval starts anew
  void failed();   // what was asked for could not be saved: no save is asked for in the next minute, or the interval if that is shorter
  void stopped();  // forgets stop: the next run must not meet it

 private:
  RunRequestOptions options_;
  double saved_at_, not_before_ = 0;  // monotonic seconds
};

}  // namespace sft::train
