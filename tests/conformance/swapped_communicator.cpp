// The suite against communicators that are wrong on purpose: rank 1 swaps two collectives.
// suite_detects_swaps_test expects it to fail.
#include <functional>
#include <utility>

#include "conformance/communicator_suite.h"

namespace sft::testing {
namespace {

// A collective that is started when it is waited for, or by whoever holds it.
struct Held {
  std::function<parallel::Work()> start;
  parallel::Work work;
  void release() {
    if (start) work = std::exchange(start, nullptr)();
  }
};

class HeldState : public parallel::Work::State {
 public:
  explicit HeldState(std::shared_ptr<Held> held) : held_(std::move(held)) {}
  void wait() override {
    held_->release();
    held_->work.wait();
  }
  bool done() override { return !held_->start && held_->work.done(); }

 private:
  std::shared_ptr<Held> held_;
};

// On rank 1, every other all_reduce changes places with the next all_reduce, or with the next all_gather.
class SwappingCommunicator : public parallel::Communicator {
 public:
  SwappingCommunicator(std::unique_ptr<parallel::Communicator> inner, bool with_gather)
      : inner_(std::move(inner)), with_gather_(with_gather) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  const char* name() const override { return inner_->name(); }
  parallel::Work all_reduce(const at::Tensor& tensor, parallel::ReduceOp op) override {
    const auto start = [this, tensor, op] { return inner_->all_reduce(tensor, op); };
    if (rank() != 1) return start();
    if (held_) return with_gather_ ? start() : then_release(start());
    held_ = std::make_shared<Held>(Held{start, {}});
    return parallel::Work(std::make_unique<HeldState>(held_));
  }
  parallel::Work all_gather(const at::Tensor& output, const at::Tensor& input) override {
    parallel::Work work = inner_->all_gather(output, input);
    return with_gather_ ? then_release(std::move(work)) : std::move(work);
  }
  parallel::Work reduce_scatter(const at::Tensor& output, const at::Tensor& input) override {
    return inner_->reduce_scatter(output, input);
  }
  parallel::Work broadcast(const at::Tensor& tensor, int root) override {
    return inner_->broadcast(tensor, root);
  }
  void barrier() override { inner_->barrier(); }
  void all_reduce(std::span<int64_t> values, parallel::ReduceOp op) override {
    inner_->all_reduce(values, op);
  }
  void all_reduce(std::span<double> values, parallel::ReduceOp op) override {
    inner_->all_reduce(values, op);
  }
  std::vector<std::string> all_gather_bytes(std::string_view bytes) override {
    return inner_->all_gather_bytes(bytes);
  }
  std::string broadcast_bytes(std::string_view bytes, int root) override {
    return inner_->broadcast_bytes(bytes, root);
  }
  std::unique_ptr<parallel::PendingSum> start_sum(int64_t value) override { return inner_->start_sum(value); }
  std::unique_ptr<parallel::Communicator> split(int color, int key) override {
    return inner_->split(color, key);
  }

 private:
  parallel::Work then_release(parallel::Work work) {
    if (held_) std::exchange(held_, nullptr)->release();
    return work;
  }

  std::unique_ptr<parallel::Communicator> inner_;
  bool with_gather_;
  std::shared_ptr<Held> held_;
};

Backend swapping(const char* name, bool with_gather) {
  return {name,
          [with_gather] { return std::make_unique<SwappingCommunicator>(make_comm("mpi"), with_gather); }};
}

INSTANTIATE_TEST_SUITE_P(Broken, CommunicatorSuite,
                         ::testing::Values(swapping("swapped_sums", false), swapping("swapped_kinds", true)),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace sft::testing
