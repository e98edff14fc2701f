// A communicator whose data-plane collectives each take `delay` longer, in the background and one after the
// other, as on a slow network. A step that waits for each of them before it goes on takes longer by the sum
// of the delays; one that overlaps them does not.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "parallel/work_queue.h"
#include "sft/parallel/communicator.h"

namespace sft::testing {

class DelayingCommunicator : public parallel::Communicator {
 public:
  // Borrows `inner`.
  DelayingCommunicator(parallel::Communicator& inner, std::chrono::microseconds delay)
      : inner_(inner), delay_(delay), queue_(/*threaded=*/true) {}

  int64_t num_delayed() const { return num_delayed_; }

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  const char* name() const override { return inner_.name(); }

  parallel::Work all_reduce(const at::Tensor& tensor, parallel::ReduceOp op) override {
    return late([=, this] { return inner_.all_reduce(tensor, op); });
  }
  parallel::Work reduce_scatter(const at::Tensor& output, const at::Tensor& input) override {
    return late([=, this] { return inner_.reduce_scatter(output, input); });
  }
  parallel::Work all_gather(const at::Tensor& output, const at::Tensor& input) override {
    return late([=, this] { return inner_.all_gather(output, input); });
  }
  parallel::Work broadcast(const at::Tensor& tensor, int root) override {
    return late([=, this] { return inner_.broadcast(tensor, root); });
  }

  void barrier() override { inner_.barrier(); }
  void all_reduce(std::span<int64_t> values, parallel::ReduceOp op) override {
    inner_.all_reduce(values, op);
  }
  void all_reduce(std::span<double> values, parallel::ReduceOp op) override { inner_.all_reduce(values, op); }
  std::vector<std::string> all_gather_bytes(std::string_view bytes) override {
    return inner_.all_gather_bytes(bytes);
  }
  std::string broadcast_bytes(std::string_view bytes, int root) override {
    return inner_.broadcast_bytes(bytes, root);
  }
  std::unique_ptr<parallel::PendingSum> start_sum(int64_t value) override { return inner_.start_sum(value); }
  std::unique_ptr<parallel::Communicator> split(int color, int key) override {
    return inner_.split(color, key);
  }

 private:
  parallel::Work late(std::function<parallel::Work()> start) {
    ++num_delayed_;
    return queue_.submit([start = std::move(start), delay = delay_] {
      std::this_thread::sleep_for(delay);
      start().wait();
    });
  }

  parallel::Communicator& inner_;
  std::chrono::microseconds delay_;
  std::atomic<int64_t> num_delayed_ = 0;
  parallel::WorkQueue queue_;
};

}  // namespace sft::testing
