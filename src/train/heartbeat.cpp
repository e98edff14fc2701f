#include "heartbeat.h"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "process_clock.h"
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
    std::filesystem::create_directory(path.parent_path(), error);  // not output_dir: it may be gone
    const activity::State state = activity::now();
    const nlohmann::json content{{"process_started", process_started()},
                                 {"seconds", seconds_since_process_start()},
                                 {"time", unix_seconds()},
                                 {"beat", beat},
                                 {"step", state.step},
                                 {"phase", state.phase}};
    std::ofstream(path) << content.dump() + "\n";
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
