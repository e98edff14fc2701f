// Owner of an NCCL communicator: waits for its non-blocking calls, watches for asynchronous errors, aborts on
// the first.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "parallel/device_backend.h"

namespace sft::parallel {

class NcclHandle {
 public:
  using Call = std::function<NcclApi::Result(NcclApi::Comm comm)>;

  // Collective. Error(kHang) when not all ranks arrive within the deadline, which also holds for every later
  // call to be accepted.
  NcclHandle(NcclApi& nccl, int rank, int size, const std::string& id, std::chrono::milliseconds deadline);
  ~NcclHandle();
  NcclHandle(const NcclHandle&) = delete;
  NcclHandle& operator=(const NcclHandle&) = delete;

  // Makes the call and waits until NCCL has accepted it. Error(kHang) naming the operation when it, or
  // anything before it, failed.
  void run(std::string_view operation, const Call& call);
  // The same error, when something has failed by now.
  void check(std::string_view operation);

 private:
  void settle(std::string_view operation, NcclApi::Result result);
  void look();
  [[noreturn]] void give_up(std::string_view operation);
  void fail_with(const std::string& text);
  void close();
  void watch();

  NcclApi& nccl_;
  std::chrono::milliseconds deadline_;
  std::mutex mutex_;              // guards what follows
  NcclApi::Comm comm_ = nullptr;  // null once aborted
  std::string failure_;
  bool stop_ = false;
  std::condition_variable changed_;
  std::thread watcher_;
};

}  // namespace sft::parallel
