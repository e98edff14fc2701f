#include "sft/engine/parameter_block.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "sft/base/error.h"
#include "sft/engine/flat_io.h"
#include "support/solo_communicator.h"

namespace sft::engine {
namespace parameter_block_test {

const std::vector<model::TensorDef> kTensors{
    {"a.weight", "", {"old.a"}, {3, 5}, true}, {"b.weight", "", {}, {4, 16}, true}, {"norm.weight", "", {}, {7}, false}};

TEST(ParameterBlock, PutsEveryTensorOnA64ByteBoundaryDecayedOnesFirst) {
  const ParameterBlock block(kTensors, c10::kCPU);
  EXPECT_EQ(block.placement(0).offset, 0);
  EXPECT_EQ(block.placement(1).offset, 16);  // 15 elements, then one of padding
  EXPECT_EQ(block.placement(2).offset, 16 + 64);
  EXPECT_EQ(block.size(), 16 + 64 + 16);
  EXPECT_EQ(block.num_decayed(), 16 + 64);
  EXPECT_EQ(block.num_parameters(), 15 + 64 + 7);
}

TEST(ParameterBlock, ViewsShareTheFlatBuffers) {
  const ParameterBlock block(kTensors, c10::kCPU);
  block.views().weights[1].fill_(2);
  block.views().grads[2].fill_(3);
  EXPECT_EQ(block.parameters().sum().item<double>(), 2 * 64);
  EXPECT_EQ(block.gradients().sum().item<double>(), 3 * 7);
  EXPECT_TRUE(block.weights_only().grads.empty());
}

// Element i of every tensor has the value i + 1.
class CountingSource : public model::TensorSource {
 public:
  explicit CountingSource(std::map<std::string, std::vector<int64_t>> shapes) : shapes_(std::move(shapes)) {}
  bool contains(std::string_view name) const override { return shapes_.count(std::string(name)) > 0; }
  std::vector<std::string> names() const override { return {}; }
  std::vector<int64_t> shape(std::string_view name) const override { return shapes_.at(std::string(name)); }
  void read(std::string_view, int64_t begin, int64_t end, const at::Tensor& out) const override {
    for (int64_t i = begin; i < end; ++i) out.data_ptr<float>()[i - begin] = static_cast<float>(i + 1);
  }
  int64_t bytes_read() const override { return 0; }

 private:
  std::map<std::string, std::vector<int64_t>> shapes_;
};

TEST(LoadFlat, FillsTensorsByNameOrAliasAndLeavesGapsZero) {
  const ParameterBlock block(kTensors, c10::kCPU);
  testing::SoloCommunicator comm;
  load_flat(block, block.parameters(),
            CountingSource({{"old.a", {3, 5}}, {"b.weight", {4, 16}}, {"norm.weight", {7}}}), "", comm);
  EXPECT_EQ(block.parameters()[14].item<float>(), 15);
  EXPECT_EQ(block.parameters()[15].item<float>(), 0);
  EXPECT_EQ(block.parameters()[16].item<float>(), 1);
  EXPECT_EQ(block.parameters().sum().item<double>(), 15 * 16 / 2 + 64 * 65 / 2 + 7 * 8 / 2);
}

TEST(LoadFlat, NamesATensorThatIsMissingOrHasAnotherShape) {
  const ParameterBlock block(kTensors, c10::kCPU);
  testing::SoloCommunicator comm;
  const auto message = [&](std::map<std::string, std::vector<int64_t>> shapes) -> std::string {
    try {
      load_flat(block, block.parameters(), CountingSource(std::move(shapes)), "", comm);
    } catch (const base::Error& error) {
      EXPECT_EQ(error.code(), base::ExitCode::kInvalidData);
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message({{"old.a", {3, 5}}, {"norm.weight", {7}}}).find("b.weight is missing"),
            std::string::npos);
  EXPECT_NE(message({{"old.a", {5, 3}}, {"b.weight", {4, 16}}, {"norm.weight", {7}}}).find("[5, 3]"),
            std::string::npos);
}

}  // namespace parameter_block_test
}  // namespace sft::engine
