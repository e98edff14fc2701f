#include "heartbeat.h"

#include <fmt/core.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <fstream>
#include <mutex>
#include <thread>

#include "sft/base/activity.h"

namespace sft::train {
namespace {

constexpr std::chrono::seconds kInterval{2};

}  // namespace

struct Heartbeat::Impl {
  std::filesystem::path path;
  std::mutex mutex;
  std::condition_variable changed;
  bool closed = false;
  std::thread thread;

  void write(int64_t beat) const {
    std::error_code error;
    std::filesystem::create_directories(path.parent_path(), error);
    const activity::State state = activity::now();
    std::ofstream(path) << fmt::format("{} step {} phase {}\n", beat, state.step, state.phase);
  }

  void beat() {
    int64_t beats = 0;
    std::unique_lock lock(mutex);
    do {
      lock.unlock();
      write(++beats);
      lock.lock();
    } while (!changed.wait_for(lock, kInterval, [this] { return closed; }));
  }
};

Heartbeat::Heartbeat(std::filesystem::path path) : impl_(std::make_unique<Impl>()) {
  impl_->path = std::move(path);
  impl_->thread = std::thread([impl = impl_.get()] { impl->beat(); });
}

Heartbeat::~Heartbeat() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->closed = true;
  }
  impl_->changed.notify_all();
  impl_->thread.join();
}

}  // namespace sft::train
