// Matrix products through oneDNN against float64: every layout that the linears use.
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include <array>
#include <fstream>
#include <string>

#include "ops/cpu/cpu.h"
#include "unit/ops/reference.h"

extern "C" __attribute__((weak)) void __asan_init();

namespace sft::ops {
namespace {

using namespace test;

struct Case {
  int64_t m, n, k;
  bool a_transposed, b_transposed, c_transposed, bias, accumulate;
};

class OneDnnMatmul : public testing::TestWithParam<Case> {};

at::Tensor stored(Random& random, int64_t rows, int64_t columns, bool transposed) {
  return transposed ? random.normal({columns, rows}, at::kFloat).t()
                    : random.normal({rows, columns}, at::kFloat);
}

TEST_P(OneDnnMatmul, MatchesFloat64) {
  const Case& p = GetParam();
  Random random(51);
  const at::Tensor a = stored(random, p.m, p.k, p.a_transposed), b = stored(random, p.k, p.n, p.b_transposed);
  const at::Tensor c = stored(random, p.m, p.n, p.c_transposed);
  const at::Tensor bias = p.bias ? random.normal({p.n}, at::kFloat) : at::Tensor();
  at::Tensor expected = a.to(at::kDouble).mm(b.to(at::kDouble));
  if (p.bias) expected = expected + bias;
  if (p.accumulate) expected = expected + c;
  ASSERT_TRUE(cpu::onednn_matmul(a, b, bias, c, p.accumulate, cpu::OneDnnKernels::kAny));
  expect_close(c, expected, 2e-6, "first use");
  // The cached primitive, on other memory.
  const at::Tensor again = c.clone().zero_();
  ASSERT_TRUE(cpu::onednn_matmul(a, b, bias, again, p.accumulate, cpu::OneDnnKernels::kAny));
  expect_close(
      again,
      p.bias ? a.to(at::kDouble).mm(b.to(at::kDouble)) + bias : a.to(at::kDouble).mm(b.to(at::kDouble)), 2e-6,
      "second use");
}

INSTANTIATE_TEST_SUITE_P(Layouts, OneDnnMatmul,
                         testing::Values(Case{1, 1, 1, false, false, false, true, false},
                                         Case{7, 3, 5, false, true, false, true, false},
                                         Case{33, 130, 64, false, true, false, false, false},
                                         Case{33, 64, 130, false, false, false, false, false},
                                         Case{64, 130, 33, true, false, true, false, true},
                                         Case{64, 130, 33, true, false, false, false, true},
                                         Case{129, 192, 576, false, true, false, true, false}));

// A product that is not served falls back to LibTorch's, slower in silence: the linears' layouts, odd sizes
// too, must be served where the processor can.
TEST(OneDnnMatmul, ServesWhatTheProcessorCan) {
#if defined(__x86_64__)
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
  const bool has_avx512 = false;
#endif
  Random random(52);
  for (const bool bf16 : {false, true}) {
    if (!has_avx512 || (bf16 && !cpu::has_bf16())) continue;  // nothing is promised there
    const auto dtype = bf16 ? at::kBFloat16 : at::kFloat;
    for (const auto [m, n, k] : {std::array<int64_t, 3>{33, 130, 64}, {257, 576, 1536}, {101, 192, 577}}) {
      const at::Tensor x = random.normal({m, k}, at::kFloat).to(dtype),
                       w = random.normal({n, k}, at::kFloat).to(dtype),
                       grad = random.normal({m, n}, at::kFloat).to(dtype);
      const at::Tensor y = random.normal({m, n}, at::kFloat), grad_x = random.normal({m, k}, at::kFloat),
                       grad_w = random.normal({n, k}, at::kFloat), grad_w_before = grad_w.clone();
      EXPECT_TRUE(cpu::onednn_matmul(x, w.t(), {}, y, false)) << m << " " << n << " " << k << " forward";
      EXPECT_TRUE(cpu::onednn_matmul(grad, w, {}, grad_x, false)) << m << " " << n << " " << k << " input";
      EXPECT_TRUE(cpu::onednn_matmul(grad.t(), x, {}, grad_w, true))
          << m << " " << n << " " << k << " weight";
      const at::Tensor xd = x.to(at::kDouble), wd = w.to(at::kDouble), gd = grad.to(at::kDouble);
      expect_close(y, xd.mm(wd.t()), 2e-6, "forward");
      expect_close(grad_x, gd.mm(wd), 2e-6, "input gradient");
      expect_close(grad_w, gd.t().mm(xd) + grad_w_before.to(at::kDouble), 2e-6, "weight gradient");
    }
  }
}

// Resident memory that belongs to no file, in MB.
int64_t anonymous_megabytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word != "RssAnon:") continue;
    int64_t kilobytes = 0;
    status >> kilobytes;
    return kilobytes / 1024;
  }
  ADD_FAILURE() << "no RssAnon";
  return 0;
}

// Packed micro-batches have ever new token counts; a primitive takes up to half a megabyte.
TEST(OneDnnMemory, DoesNotGrowWithEverNewSizes) {
  const auto multiply = [](int64_t first, int64_t last) {
    for (int64_t m = first; m < last; ++m) {
      const at::Tensor a = at::ones({m, 64}, at::kFloat), b = at::ones({64, 48}, at::kFloat);
      ASSERT_TRUE(cpu::onednn_matmul(a, b, {}, at::empty({m, 48}), false, cpu::OneDnnKernels::kAny));
    }
  };
  multiply(1, 400);  // more than are kept
  const int64_t before = anonymous_megabytes();
  multiply(400, 1600);
  if (&__asan_init != nullptr) return;  // it holds freed memory back
  EXPECT_LE(anonymous_megabytes() - before, 50);
}

}  // namespace
}  // namespace sft::ops
