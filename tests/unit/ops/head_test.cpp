// The chunked head against losses of log_softmax(linear(hidden)) under LibTorch's autograd in float64.
#include <ATen/ops/argmax.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <limits>

#include "unit/ops/reference.h"

namespace sft::ops {
namespace head_test {

using namespace test;

struct Case {
  int64_t targets, features, vocab, chunk;
  bool bias;
  at::ScalarType dtype;
  double logit_scale = 1.0;
  std::optional<double> softcap = std::nullopt;
  LossOptions loss = {};
};

class Head : public testing::TestWithParam<Case> {};

TEST_P(Head, MatchesAutograd) {
  const Case& c = GetParam();
  constexpr double kLossScale = 1.0 / 37.0;
  Random random(41);
  const at::Tensor hidden = random.normal({c.targets, c.features}, c.dtype),
                   ids = random.ids(c.targets, c.vocab);
  const LinearWeights w{random.normal({c.vocab, c.features}, c.dtype),
                        c.bias ? random.normal({c.vocab}, c.dtype) : at::Tensor()};

  const at::Tensor rh = leaf(hidden), rw = leaf(w.weight), rb = c.bias ? leaf(w.bias) : at::Tensor();
  at::Tensor logits = at::linear(rh, rw, rb) * c.logit_scale;
  if (c.softcap) logits = (logits / *c.softcap).tanh() * *c.softcap;
  const at::Tensor log_p = at::log_softmax(logits, 1), nll = -log_p.gather(1, ids.unsqueeze(1)).squeeze(1);
  at::Tensor losses = nll;
  if (c.loss.kind == LossKind::kDft) losses = (-nll).exp().detach() * nll;
  if (c.loss.label_smoothing > 0)
    losses = (1 - c.loss.label_smoothing) * nll - c.loss.label_smoothing * log_p.mean(1);
  const at::Tensor loss = losses.sum();
  (loss * kLossScale).backward();

  HeadOptions options;
  options.chunk = c.chunk;
  options.logit_scale = c.logit_scale;
  options.softcap = c.softcap;
  options.loss = c.loss;
  const LinearGrads grads{at::ones_like(w.weight), c.bias ? at::ones_like(w.bias) : at::Tensor()};
  const HeadResult result =
      head_forward_backward(hidden, w, ids, kLossScale, grads, options, ComputeDtype::kFp32);
  const double tolerance = tolerance_of(c.dtype);
  EXPECT_EQ(result.loss_sum.scalar_type(), at::kDouble);
  expect_close(result.loss_sum, loss, tolerance, "loss");
  expect_close(result.grad_hidden, rh.grad(), tolerance, "grad hidden");
  expect_close(grads.weight, rw.grad() + 1.0, tolerance, "grad weight");
  if (c.bias) expect_close(grads.bias, rb.grad() + 1.0, tolerance, "grad bias");

  ASSERT_EQ(result.token_sums.defined(), c.loss.token_metrics);
  if (c.loss.token_metrics) {
    EXPECT_EQ(result.token_sums[0].item<double>(), logits.argmax(1).eq(ids).sum().item<double>());
    expect_close(result.token_sums[1], -(log_p.exp() * log_p).sum(), tolerance, "entropy");
  }

  const HeadResult only_loss = head_forward(hidden, w, ids, options, ComputeDtype::kFp32);
  EXPECT_TRUE(only_loss.loss_sum.equal(result.loss_sum));
  if (c.loss.token_metrics) {
    EXPECT_TRUE(only_loss.token_sums.equal(result.token_sums));
  }
  EXPECT_FALSE(only_loss.grad_hidden.defined());
}

INSTANTIATE_TEST_SUITE_P(Cases, Head,
                         testing::Values(Case{1, 3, 5, 512, false, at::kDouble},
                                         Case{50, 24, 131, 7, true, at::kDouble},
                                         Case{50, 24, 131, 50, false, at::kDouble},
                                         Case{50, 24, 131, 16, true, at::kDouble, 0.25, 3.0},
                                         Case{50, 24, 131, 7, true, at::kFloat},
                                         Case{700, 40, 300, 512, false, at::kFloat},
                                         Case{50, 24, 131, 16, true, at::kFloat, 0.25, 3.0}));

constexpr LossOptions kWatched{LossKind::kNll, 0.0, true}, kSmoothed{LossKind::kNll, 0.1, true},
    kDft{LossKind::kDft, 0.0, true};
INSTANTIATE_TEST_SUITE_P(
    Losses, Head,
    testing::Values(
        Case{50, 24, 13, 7, true, at::kDouble, 1.0, {}, kWatched},
        Case{50, 24, 13, 7, true, at::kDouble, 0.25, 3.0, kSmoothed},
        Case{50, 24, 13, 7, true, at::kDouble, 0.25, 3.0, kDft},
        Case{700, 40, 300, 512, false, at::kFloat, 1.0, {}, kWatched},
        Case{50, 4, 5000, 512, false, at::kFloat, 1.0, {}, kSmoothed},
        Case{50, 24, 131, 16, true, at::kFloat, 0.25, 3.0, kSmoothed},
        Case{50, 4, 5000, 16, true, at::kFloat, 0.25, 3.0, kDft},
        Case{50, 24, 131, 16, true, at::kFloat, 1.0, {}, LossOptions{LossKind::kDft, 0.0, false}}));

// torch.argmax takes the first of equals, and so does TRL's count.
TEST(HeadEdge, TheFirstOfEquallyLikelyWordsIsTheGuess) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    const LinearWeights w{at::zeros({40, 4}, dtype), {}};
    w.weight.narrow(0, 17, 3).fill_(1.0);
    const at::Tensor hidden = at::ones({5, 4}, dtype);
    const at::Tensor ids = at::tensor({16, 17, 18, 19, 20}, at::kLong);
    HeadOptions options;
    options.loss.token_metrics = true;
    const HeadResult result = head_forward(hidden, w, ids, options, ComputeDtype::kFp32);
    EXPECT_EQ(result.token_sums[0].item<double>(), 1.0);
  }
}

TEST(HeadEdge, NoTargets) {
  Random random(42);
  const LinearWeights w{random.normal({6, 4}, at::kFloat), {}};
  const LinearGrads grads{at::ones_like(w.weight), {}};
  const HeadResult result = head_forward_backward(random.normal({0, 4}, at::kFloat), w, random.ids(0, 6), 1.0,
                                                  grads, {}, ComputeDtype::kFp32);
  EXPECT_EQ(result.loss_sum.item<double>(), 0.0);
  EXPECT_EQ(result.grad_hidden.sizes(), at::IntArrayRef({0, 4}));
  EXPECT_TRUE(grads.weight.equal(at::ones_like(w.weight)));
}

TEST(HeadEdge, LargeLogitsStayFinite) {
  Random random(43);
  const LinearWeights w{random.normal({9, 4}, at::kFloat) * 1e4, {}};
  const at::Tensor hidden = random.normal({5, 4}, at::kFloat);
  const HeadResult result = head_forward_backward(hidden, w, random.ids(5, 9), 1.0,
                                                  {at::zeros_like(w.weight), {}}, {}, ComputeDtype::kFp32);
  EXPECT_TRUE(result.loss_sum.isfinite().item<bool>());
  EXPECT_TRUE(result.grad_hidden.isfinite().all().item<bool>());
}

// bf16 means: operands of products rounded to bf16, the gradient of the logits too; sums and softmax in fp32.
TEST(HeadBf16, RoundsOperandsAndTheGradientOfLogits) {
  constexpr double kLossScale = 1.0 / 50.0;
  const auto rounded = [](const at::Tensor& t) { return t.to(at::kBFloat16).to(at::kDouble); };
  for (const bool bias : {false, true}) {
    for (const std::optional<double> softcap : {std::optional<double>(), std::optional<double>(3.0)}) {
      Random random(45);
      const at::Tensor hidden = random.normal({50, 24}, at::kFloat), ids = random.ids(50, 131);
      const LinearWeights w{random.normal({131, 24}, at::kFloat),
                            bias ? random.normal({131}, at::kFloat) : at::Tensor()};
      const at::Tensor product =
          leaf(at::linear(rounded(hidden), rounded(w.weight), bias ? w.bias.to(at::kDouble) : at::Tensor()));
      const at::Tensor logits = softcap ? (product / *softcap).tanh() * *softcap : product;
      const at::Tensor loss = -at::log_softmax(logits, 1).gather(1, ids.unsqueeze(1)).sum();
      (loss * kLossScale).backward();

      HeadOptions options;
      options.chunk = 16;
      options.softcap = softcap;
      const LinearGrads grads{at::ones_like(w.weight), bias ? at::ones_like(w.bias) : at::Tensor()};
      const HeadResult result =
          head_forward_backward(hidden, w, ids, kLossScale, grads, options, ComputeDtype::kBf16);
      // A value between two of bf16 may fall to either side.
      constexpr double kTolerance = 3e-4;
      expect_close(result.loss_sum, loss, 2e-6, "loss");
      const at::Tensor grad = rounded(product.grad());
      expect_close(result.grad_hidden, grad.mm(rounded(w.weight)), kTolerance, "grad hidden");
      expect_close(grads.weight - 1.0, grad.t().mm(rounded(hidden)), kTolerance, "grad weight");
      if (bias) expect_close(grads.bias, product.grad().sum(0) + 1.0, 2e-6, "grad bias");
      EXPECT_GT(relative_l2(result.grad_hidden, product.grad().mm(rounded(w.weight))), kTolerance)
          << "the gradient of the logits was not rounded";
    }
  }
}

TEST(HeadBf16, WhatIsNoNumberStaysNone) {
  const LinearWeights w{at::full({9, 4}, std::numeric_limits<float>::quiet_NaN()), {}};
  const HeadResult result = head_forward_backward(at::ones({5, 4}), w, at::zeros({5}, at::kLong), 1.0,
                                                  {at::zeros({9, 4}), {}}, {}, ComputeDtype::kBf16);
  EXPECT_TRUE(result.loss_sum.isnan().item<bool>());
  EXPECT_TRUE(result.grad_hidden.isnan().all().item<bool>());
}

// Follows what LibTorch allocates on this thread.
class PeakMemory : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
    now_ += bytes;
    peak_ = std::max(peak_, now_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t peak() const { return peak_; }

 private:
  int64_t now_ = 0, peak_ = 0;
};

int64_t head_peak_bytes(int64_t targets) {
  Random random(44);
  const LinearWeights w{random.normal({1000, 8}, at::kFloat), {}};
  const LinearGrads grads{at::zeros_like(w.weight), {}};
  const at::Tensor hidden = random.normal({targets, 8}, at::kFloat), ids = random.ids(targets, 1000);
  HeadOptions options;
  options.chunk = 64;
  const auto memory = std::make_shared<PeakMemory>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, memory);
  head_forward_backward(hidden, w, ids, 1.0, grads, options, ComputeDtype::kFp32);
  return memory->peak();
}

// Ten times the targets: the gradient of the hidden states grows, the logits do not.
TEST(HeadMemory, DoesNotGrowWithTargetsBeyondTheirHiddenStates) {
  const int64_t few = head_peak_bytes(100), many = head_peak_bytes(1000);
  const int64_t logits_chunk = 64 * 1000 * 4;
  EXPECT_GE(few, logits_chunk) << "the measurement works";
  EXPECT_LT(few, 3 * logits_chunk);
  EXPECT_LE(many - few, 900 * 8 * 4 + 4096);
}

}  // namespace head_test
}  // namespace sft::ops
