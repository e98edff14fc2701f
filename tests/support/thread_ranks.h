// Ranks as threads of one process, for tests of code that needs only the control plane of a communicator.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "sft/parallel/communicator.h"

namespace sft::test {

// What the ranks of one communicator share.
class ThreadWorld {
 public:
  explicit ThreadWorld(int size) : slots_(static_cast<std::size_t>(size)) {}
  int size() const { return static_cast<int>(slots_.size()); }

  // Every rank's bytes, once all have come here. Throws on the others when one rank has ended with an
  // exception.
  std::vector<std::string> exchange(int rank, std::string_view bytes) {
    slots_[static_cast<std::size_t>(rank)] = bytes;
    wait();
    std::vector<std::string> all = slots_;
    wait();
    return all;
  }

  void abandon() {
    const std::lock_guard lock(mutex_);
    abandoned_ = true;
    arrived_all_.notify_all();
  }

 private:
  void wait() {
    std::unique_lock lock(mutex_);
    const int64_t round = round_;
    if (++arrived_ == size()) {
      arrived_ = 0;
      ++round_;
      arrived_all_.notify_all();
    }
    arrived_all_.wait(lock, [&] { return round_ != round || abandoned_; });
    if (round_ == round) throw std::runtime_error("another rank has ended");
  }

  std::vector<std::string> slots_;
  std::mutex mutex_;
  std::condition_variable arrived_all_;
  int arrived_ = 0;
  int64_t round_ = 0;
  bool abandoned_ = false;
};

class ThreadCommunicator final : public parallel::Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadWorld> world, int rank) : world_(std::move(world)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return world_->size(); }
  const char* name() const override { return "threads"; }

  void barrier() override { world_->exchange(rank_, ""); }
  std::vector<std::string> all_gather_bytes(std::string_view bytes) override {
    return world_->exchange(rank_, bytes);
  }
  std::string broadcast_bytes(std::string_view bytes, int root) override {
    return world_->exchange(rank_,
                            rank_ == root ? bytes : std::string_view())[static_cast<std::size_t>(root)];
  }

  parallel::Work all_reduce(const at::Tensor&, parallel::ReduceOp) override { refuse(); }
  parallel::Work reduce_scatter(const at::Tensor&, const at::Tensor&) override { refuse(); }
  parallel::Work all_gather(const at::Tensor&, const at::Tensor&) override { refuse(); }
  parallel::Work broadcast(const at::Tensor&, int) override { refuse(); }
  void all_reduce(std::span<int64_t>, parallel::ReduceOp) override { refuse(); }
  void all_reduce(std::span<double>, parallel::ReduceOp) override { refuse(); }
  std::unique_ptr<parallel::PendingSum> start_sum(int64_t) override { refuse(); }
  std::unique_ptr<parallel::Communicator> split(int, int) override { refuse(); }

 private:
  [[noreturn]] static void refuse() {
    throw std::logic_error("only the exchange of bytes is supported between threads");
  }

  std::shared_ptr<ThreadWorld> world_;
  int rank_;
};

// Runs body on `size` ranks; rethrows what the lowest rank threw, if any did.
inline void run_ranks(int size, const std::function<void(parallel::Communicator&)>& body) {
  const auto world = std::make_shared<ThreadWorld>(size);
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(size));
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        try {
          ThreadCommunicator comm(world, rank);
          body(comm);
        } catch (...) {
          errors[static_cast<std::size_t>(rank)] = std::current_exception();
          world->abandon();
        }
      });
    }
  }
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace sft::test
