#include "heartbeat.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "process_clock.h"
#include "sft/base/activity.h"

namespace sft::train {
namespace {

constexpr std::chrono::seconds kInterval{2};
constexpr std::size_t kBytes = 512;

// Written over in place, always as long: a full disk does not stop it.
void write_over(const std::filesystem::path& path, std::string text) {
  text.resize(std::max(text.size(), kBytes - 1), ' ');
  text += '\n';
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0) return;
  // Whoever watches sees that there is no new one.
  [[maybe_unused]] const ssize_t written = ::pwrite(file, text.data(), text.size(), 0);
  ::close(file);
}

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
    write_over(path, content.dump());
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
