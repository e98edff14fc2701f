// How long this process has lived, launcher and library start-up included.
#pragma once

namespace sft::train {

double seconds_since_process_start();  // from the kernel's start time of this process (resolution 10 ms)

}  // namespace sft::train
