// How long this process has lived, launcher and library start-up included.
#pragma once

namespace sft::train {

double seconds_since_process_start();  // from the kernel's start time of this process (resolution 10 ms)

double unix_seconds();  // the time of day, which may jump

// Unix seconds when this process started, by the clock as it was when this was first called; the same value
// ever after.
double process_started();

}  // namespace sft::train
