// Requests to stop from outside: SIGUSR1 and SIGTERM (schedulers, mpirun), SIGINT (a person).
#pragma once

#include <memory>

#include "sft/parallel/communicator.h"

namespace sft::train {

// Installs the handlers. One at a time in a process, which ends soon after it: the destructor leaves SIGUSR1
// and SIGTERM ignored and SIGINT as it was. A second SIGINT ends the process at once.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  bool requested() const;  // Local: a signal reached this rank

 private:
  struct Saved;
  std::unique_ptr<Saved> saved_;
};

// Agreement inside a window at no cost: the question is asked before a micro-batch and the answer fetched
// after it.
class StopVote {
 public:
  StopVote(const StopSignals& signals, parallel::Communicator& comm) : signals_(signals), comm_(comm) {}
  void ask();     // Collective
  bool answer();  // Collective: whether any rank had a request when it asked

 private:
  const StopSignals& signals_;
  parallel::Communicator& comm_;
  std::unique_ptr<parallel::PendingSum> pending_;
};

}  // namespace sft::train
