#include "parallel/work_queue.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

namespace sft::parallel {
namespace {

struct Task {
  std::function<void()> run;
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  std::exception_ptr error;

  void finish(std::exception_ptr with) {
    run = nullptr;  // lets go of the tensors
    const std::lock_guard lock(mutex);
    error = std::move(with);
    done = true;
    changed.notify_all();
  }
};

class TaskState : public Work::State {
 public:
  explicit TaskState(std::shared_ptr<Task> task) : task_(std::move(task)) {}
  void wait() override {
    std::unique_lock lock(task_->mutex);
    task_->changed.wait(lock, [this] { return task_->done; });
    if (task_->error) std::rethrow_exception(task_->error);
  }
  bool done() override {
    const std::lock_guard lock(task_->mutex);
    return task_->done;
  }

 private:
  std::shared_ptr<Task> task_;
};

}  // namespace

// Outlives the queue when the thread had to be left behind.
struct WorkQueue::Shared {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::shared_ptr<Task>> tasks;
  bool closed = false;
  std::exception_ptr failure;  // of the first task that failed

  void execute(Task& task) {
    if (!failure) {
      try {
        task.run();
      } catch (...) {
        failure = std::current_exception();
      }
    }
    task.finish(failure);
  }

  void serve() {
    for (;;) {
      std::unique_lock lock(mutex);
      changed.wait(lock, [this] { return closed || !tasks.empty(); });
      if (tasks.empty()) return;
      const std::shared_ptr<Task> task = std::move(tasks.front());
      tasks.pop_front();
      lock.unlock();
      execute(*task);
    }
  }
};

class WorkQueue::Thread {
 public:
  explicit Thread(std::shared_ptr<Shared> shared)
      : thread_([shared = std::move(shared)] { shared->serve(); }) {}
  ~Thread() { std::uncaught_exceptions() > 0 ? thread_.detach() : thread_.join(); }
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

 private:
  std::thread thread_;
};

WorkQueue::WorkQueue(bool threaded) : shared_(std::make_shared<Shared>()) {
  if (threaded) thread_ = std::make_unique<Thread>(shared_);
}

WorkQueue::~WorkQueue() {
  const std::lock_guard lock(shared_->mutex);
  shared_->closed = true;
  shared_->changed.notify_all();
}

Work WorkQueue::submit(std::function<void()> run) {
  auto task = std::make_shared<Task>();
  task->run = std::move(run);
  if (thread_) {
    const std::lock_guard lock(shared_->mutex);
    shared_->tasks.push_back(task);
    shared_->changed.notify_one();
  } else {
    shared_->execute(*task);
  }
  return Work(std::make_unique<TaskState>(std::move(task)));
}

}  // namespace sft::parallel
