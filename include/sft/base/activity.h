// What this process is doing at this moment, for whoever looks while it does not come on (base/watchdog.h).
//
// One record per process, as there is one log. Written by the threads that do the work, with relaxed stores that cost
// nothing measurable; read at any time from any thread.
#pragma once

#include <cstdint>

namespace sft::activity {

// Names are string literals: their address is stored.
void set_phase(const char* name);
void set_step(int64_t step);         // optimizer step under way, counted from 1; micro-step and block start at 0 again
void set_micro_step(int64_t index);  // of this rank's window, from 0
void set_block(int64_t index);       // of the model's list of blocks

// The calls of one kind that ranks must make together are numbered alike on all of them: a rank with a smaller number
// than the others is behind. Two kinds may run side by side (parallel/communicator.h).
enum class Plane { kControl, kData };

// While it lives, this process is inside a collective.
class Collective {
 public:
  Collective(Plane plane, const char* name);
  ~Collective();
  Collective(const Collective&) = delete;
  Collective& operator=(const Collective&) = delete;

 private:
  Plane plane_;
};

struct CollectiveState {
  const char* name = "";   // the last one entered
  int64_t sequence = 0;    // how many were entered
  bool inside = false;     // entered and not left
};
struct State {
  const char* phase = "";
  int64_t step = 0, micro_step = 0, block = 0;
  CollectiveState control, data;
};
State now();

}  // namespace sft::activity
