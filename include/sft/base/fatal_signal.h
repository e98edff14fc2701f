// Ends by a signal that no exception handler sees: a bug, or memory that a library needed and did not get.
#pragma once

#include <string>

namespace sft::base {

// Local. From the first call on this process says who it is (`who`, "rank 1 h1"; a later call tells better),
// what it was doing and which signal ends it: SIGSEGV, SIGBUS, SIGILL, SIGFPE or SIGABRT. With most of a
// limit on its address space used (ulimit -v) that is taken for memory which ran out, and it ends with
// ExitCode::kOutOfMemory; else it shows its stack and goes on as before: a handler that was there (a
// sanitizer's), or death of the signal.
void name_fatal_signals(const std::string& who);

}  // namespace sft::base
