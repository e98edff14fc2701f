#include "parallel/nccl_handle.h"

#include <exception>

#include "sft/base/error.h"
#include "sft/base/log.h"

namespace sft::parallel {

using base::ExitCode;
using Status = NcclApi::Status;

NcclHandle::NcclHandle(NcclApi& nccl, int rank, int size, const std::string& id,
                       std::chrono::milliseconds deadline)
    : nccl_(nccl), deadline_(deadline) {
  settle("initialisation", nccl_.init(comm_, rank, size, id));
  watcher_ = std::thread([this] { watch(); });
}

NcclHandle::~NcclHandle() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  watcher_.join();
  if (comm_ == nullptr) return;
  // Finalizing waits for the other ranks, which an exception here may keep from coming.
  if (std::uncaught_exceptions() > 0) {
    nccl_.abort(comm_);
  } else {
    close();
  }
}

void NcclHandle::close() {
  try {
    settle("finalization", nccl_.finalize(comm_));
    nccl_.destroy(comm_);
  } catch (const base::Error& error) {
    log::warning("{}", error.what());
  }
}

void NcclHandle::run(std::string_view operation, const Call& call) {
  const std::lock_guard lock(mutex_);
  look();
  if (comm_ == nullptr) give_up(operation);
  settle(operation, call(comm_));
}

void NcclHandle::check(std::string_view operation) {
  const std::lock_guard lock(mutex_);
  look();
  if (comm_ == nullptr) give_up(operation);
}

// With mutex_ held, as all below.
void NcclHandle::settle(std::string_view operation, NcclApi::Result result) {
  const auto end = std::chrono::steady_clock::now() + deadline_;
  while (result.status == Status::kInProgress) {
    if (std::chrono::steady_clock::now() > end) {
      nccl_.abort(comm_);
      comm_ = nullptr;
      failure_ = fmt::format("no answer from the other ranks within {} s",
                             static_cast<double>(deadline_.count()) / 1000);
      base::fail(ExitCode::kHang, "NCCL {}: {}", operation, failure_);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    result = nccl_.state(comm_);
  }
  if (result.status == Status::kOk) return;
  fail_with(result.text);
  give_up(operation);
}

void NcclHandle::look() {
  if (comm_ == nullptr) return;
  const NcclApi::Result now = nccl_.state(comm_);
  if (now.status == Status::kFailed) fail_with(now.text);
}

void NcclHandle::fail_with(const std::string& text) {
  failure_ = text;
  if (comm_ != nullptr) nccl_.abort(comm_);
  comm_ = nullptr;
}

void NcclHandle::give_up(std::string_view operation) {
  base::fail(ExitCode::kHang, "NCCL {} failed: {}", operation, failure_);  // another rank, its host or the network: as a rule mended by another start
}

// A failed collective never ends on the device, and the thread that waits for it there cannot look: this one
// does.
void NcclHandle::watch() {
  std::unique_lock lock(mutex_);
  while (!stop_ && comm_ != nullptr) {
    changed_.wait_for(lock, std::chrono::milliseconds(50));
    look();
  }
}

}  // namespace sft::parallel
