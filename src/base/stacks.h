// The call stacks of all threads of this process.
#pragma once

#include <string>

namespace sft::base {

// Takes over the signal the other threads are asked with; call once, early, in the main thread.
void prepare_stacks();

// One paragraph per thread: its id and name, then one line per frame. A thread that does not answer within a
// fifth of a second (it is stopped, or in the kernel for good) is listed without frames.
std::string all_stacks();

}  // namespace sft::base
