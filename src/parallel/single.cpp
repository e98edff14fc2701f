// The world of one: every collective is finished when it is asked for.
#include <ATen/ops/copy.h>

#include "parallel/backends.h"
#include "parallel/tensor_checks.h"

namespace sft::parallel {
namespace {

class KnownSum : public PendingSum {
 public:
  explicit KnownSum(int64_t value) : value_(value) {}
  int64_t get() override { return value_; }

 private:
  int64_t value_;
};

class SingleCommunicator : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  const char* name() const override { return "single"; }

  Work all_reduce(const at::Tensor& tensor, ReduceOp /*op*/) override {
    check_tensor("all_reduce", tensor, std::nullopt);
    return {};
  }
  Work reduce_scatter(const at::Tensor& output, const at::Tensor& input) override {
    check_parts("reduce_scatter", input, output, 1, std::nullopt);
    copy(output, input);
    return {};
  }
  Work all_gather(const at::Tensor& output, const at::Tensor& input) override {
    check_parts("all_gather", output, input, 1, std::nullopt);
    copy(output, input);
    return {};
  }
  Work broadcast(const at::Tensor& tensor, int root) override {
    check_tensor("broadcast", tensor, std::nullopt);
    check_root("broadcast", root, 1);
    return {};
  }

  void barrier() override {}
  void all_reduce(std::span<int64_t> /*values*/, ReduceOp /*op*/) override {}
  void all_reduce(std::span<double> /*values*/, ReduceOp /*op*/) override {}
  std::vector<std::string> all_gather_bytes(std::string_view bytes) override { return {std::string(bytes)}; }
  std::string broadcast_bytes(std::string_view bytes, int root) override {
    check_root("broadcast_bytes", root, 1);
    return std::string(bytes);
  }
  std::unique_ptr<PendingSum> start_sum(int64_t value) override { return std::make_unique<KnownSum>(value); }
  std::unique_ptr<Communicator> split(int /*color*/, int /*key*/) override {
    return make_single_communicator();
  }

 private:
  static void copy(const at::Tensor& to, const at::Tensor& from) {
    if (to.data_ptr() != from.data_ptr()) to.view(-1).copy_(from.view(-1));
  }
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<SingleCommunicator>();
}

}  // namespace sft::parallel
