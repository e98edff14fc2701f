// Runs data-plane collectives one after the other, in the order they were submitted, on a thread of its own.
#pragma once

#include <functional>
#include <memory>

#include "sft/parallel/communicator.h"

namespace sft::parallel {

class WorkQueue {
 public:
  // threaded = false: submit() runs the task itself (for an MPI that allows only one thread at a time).
  explicit WorkQueue(bool threaded);
  // Waits for what was submitted; while an exception unwinds the stack it does not, as other ranks may never
  // join.
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // The task's exception comes out of Work::wait(). After the first failure nothing more is run: later tasks
  // fail with the same error.
  Work submit(std::function<void()> task);

 private:
  struct Shared;
  class Thread;
  std::shared_ptr<Shared> shared_;
  std::unique_ptr<Thread> thread_;
};

}  // namespace sft::parallel
