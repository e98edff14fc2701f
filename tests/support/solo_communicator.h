// A world of one for tests that do not want MPI; every method does the obvious. Records the order of
// data-plane calls.
#pragma once

#include <string>
#include <vector>

#include "sft/parallel/communicator.h"

namespace sft::testing {

class SoloCommunicator : public parallel::Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return reported_size_; }
  const char* name() const override { return "solo"; }

  parallel::Work all_reduce(const at::Tensor& tensor, parallel::ReduceOp) override {
    calls_.push_back("start " + std::to_string(tensor.numel()));
    return parallel::Work(std::make_unique<Recorded>(calls_, "wait " + std::to_string(tensor.numel())));
  }
  parallel::Work reduce_scatter(const at::Tensor& output, const at::Tensor& input) override {
    output.copy_(input);
    return {};
  }
  parallel::Work all_gather(const at::Tensor& output, const at::Tensor& input) override {
    output.copy_(input);
    return {};
  }
  parallel::Work broadcast(const at::Tensor&, int) override { return {}; }
  void barrier() override {}
  using Communicator::all;
  void all_reduce(std::span<int64_t>, parallel::ReduceOp) override {}
  void all_reduce(std::span<double>, parallel::ReduceOp) override {}
  std::vector<std::string> all_gather_bytes(std::string_view bytes) override { return {std::string(bytes)}; }
  std::string broadcast_bytes(std::string_view bytes, int) override { return std::string(bytes); }
  std::unique_ptr<parallel::PendingSum> start_sum(int64_t value) override {
    return std::make_unique<Known>(value);
  }
  std::unique_ptr<Communicator> split(int, int) override { return std::make_unique<SoloCommunicator>(); }

  // With a reported size above one the code under test communicates; sums still come out as for one rank.
  void report_size(int size) { reported_size_ = size; }
  const std::vector<std::string>& calls() const { return calls_; }

 private:
  struct Recorded : parallel::Work::State {
    Recorded(std::vector<std::string>& calls, std::string entry) : calls_(calls), entry_(std::move(entry)) {}
    void wait() override {
      if (!waited_) calls_.push_back(entry_);
      waited_ = true;
    }
    bool done() override { return waited_; }
    std::vector<std::string>& calls_;
    std::string entry_;
    bool waited_ = false;
  };
  struct Known : parallel::PendingSum {
    explicit Known(int64_t value) : value_(value) {}
    int64_t get() override { return value_; }
    int64_t value_;
  };
  std::vector<std::string> calls_;
  int reported_size_ = 1;
};

}  // namespace sft::testing
