// 4-bit weights against bitsandbytes, bit for bit. The golden is made by tests/golden/make_nf4.py.
#include "sft/ops/nf4.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sin.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "sft/model/weights.h"

namespace sft::ops {
namespace nf4_test {

const std::filesystem::path kGolden = std::filesystem::path(SFT_SOURCE_DIR) / "tests/golden/nf4.safetensors";

class Nf4 : public testing::TestWithParam<const char*> {
 protected:
  at::Tensor golden(const std::string& name) const {
    const auto source = model::open_safetensors_files({kGolden});
    const at::Tensor t = at::empty(source->shape(GetParam() + ("." + name)), at::TensorOptions(at::kFloat));
    source->read(GetParam() + ("." + name), 0, t.numel(), t);
    return t;
  }
};

TEST_P(Nf4, CodesScalesAndValuesAreThoseOfBitsandbytes) {
  const Nf4Tensor tensor = nf4_quantize(golden("weight"), /*nested=*/false);
  EXPECT_TRUE(tensor.codes.to(at::kFloat).equal(golden("codes")));
  EXPECT_TRUE(tensor.absmax.equal(golden("absmax")));
  if (GetParam() != std::string("many")) {  // its values are stored with nested scales only
    EXPECT_TRUE(nf4_dequantize(tensor, at::kFloat).equal(golden("values")));
  }
}

TEST_P(Nf4, NestedScalesToo) {
  const Nf4Tensor tensor = nf4_quantize(golden("weight"), /*nested=*/true);
  EXPECT_TRUE(tensor.codes.to(at::kFloat).equal(golden("codes")));
  EXPECT_TRUE(tensor.absmax_codes.to(at::kFloat).equal(golden("nested.codes")));
  EXPECT_LT((tensor.nested_absmax - golden("nested.absmax")).abs().max().item<float>(), 1e-8F);
  EXPECT_NEAR(tensor.offset, golden("nested.offset").item<float>(), 1e-8F);
  const at::Tensor difference = nf4_dequantize(tensor, at::kFloat) - golden("nested.values");
  EXPECT_LT(difference.abs().max().item<float>(), 1e-7F);
}

INSTANTIATE_TEST_SUITE_P(Cases, Nf4, testing::Values("many", "odd", "zero"));

TEST(Nf4Size, IsFourBitsAndAScalePerBlock) {
  const at::Tensor weight = at::arange(0, 64 * 512, at::TensorOptions(at::kFloat)).view({128, 256});
  EXPECT_EQ(nf4_bytes(weight.numel(), false), 64 * 512 / 2 + 512 * 4);
  EXPECT_EQ(nf4_bytes(weight.numel(), true), 64 * 512 / 2 + 512 + 2 * 4);
}

TEST(Nf4Size, IsWhatATensorTakes) {
  for (const int64_t numel : {1, 2, 63, 65, 64 * 256, 64 * 256 + 1}) {
    for (const bool nested : {false, true}) {
      const Nf4Tensor made = nf4_quantize(at::ones({numel}), nested);
      std::size_t bytes = 0;
      for (const at::Tensor* part : {&made.codes, &made.absmax, &made.absmax_codes, &made.nested_absmax}) {
        if (part->defined()) bytes += part->nbytes();
      }
      EXPECT_EQ(nf4_bytes(numel, nested), static_cast<int64_t>(bytes)) << numel;
    }
  }
}

// Ranks quantise the same weights, each with its own number of threads.
TEST(Nf4Size, BitsDoNotDependOnThreads) {
  const at::Tensor weight = at::arange(0, 2049 * 1024, at::TensorOptions(at::kFloat)).sin().view({2049, 1024});
  std::vector<Nf4Tensor> made;
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    made.push_back(nf4_quantize(weight, true));
  }
  for (const Nf4Tensor& other : made) {
    EXPECT_EQ(other.offset, made[0].offset);
    EXPECT_TRUE(other.codes.equal(made[0].codes) && other.absmax_codes.equal(made[0].absmax_codes) &&
                other.nested_absmax.equal(made[0].nested_absmax));
  }
}

}  // namespace nf4_test
}  // namespace sft::ops
