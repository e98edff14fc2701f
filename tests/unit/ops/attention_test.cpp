// Attention over packed rows against explicit softmax attention under LibTorch's autograd in float64.
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "ops/cpu/bf16_gemm.h"
#include "ops/cpu/cpu.h"
#include "unit/ops/reference.h"

namespace sft::ops {
namespace attention_test {

using namespace test;

struct Case {
  std::vector<int64_t> cu_seqlens;
  int64_t heads, kv_heads, head_dim;
  at::ScalarType dtype;
  std::optional<int64_t> window = std::nullopt;
  std::optional<double> softcap = std::nullopt;
  double dropout = 0.0;
  bool alibi = false;
};

// Any slopes, one per head.
std::vector<double> slopes_of(const Case& c) {
  std::vector<double> slopes;
  for (int64_t h = 0; c.alibi && h < c.heads; ++h) slopes.push_back(0.5 / static_cast<double>(h + 1));
  return slopes;
}

// What attention is given besides tensors.
struct Given {
  Given(const Case& c, double scale) : slopes(slopes_of(c)) {
    for (std::size_t r = 0; r + 1 < c.cu_seqlens.size(); ++r)
      rows.push_back({2, static_cast<int64_t>(10 + r)});
    site = {c.dropout, 5, 3, 1, c.cu_seqlens, rows};
    options = {scale, c.window, c.softcap, slopes};
  }
  Given(const Given&) = delete;
  Given& operator=(const Given&) = delete;
  const DropoutSite* dropout() const { return site.probability > 0 ? &site : nullptr; }

  std::vector<double> slopes;
  std::vector<DropoutRow> rows;
  DropoutSite site;
  AttentionOptions options;
};

// One row at a time, key/value heads repeated as transformers' repeat_kv does.
at::Tensor reference(const Case& c, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     double scale, const DropoutSite* dropout) {
  std::vector<at::Tensor> rows{q.narrow(0, 0, 0)};
  const int64_t groups = c.heads / c.kv_heads;
  for (std::size_t r = 0; r + 1 < c.cu_seqlens.size(); ++r) {
    const int64_t begin = c.cu_seqlens[r], length = c.cu_seqlens[r + 1] - begin;
    const at::Tensor qr = q.narrow(0, begin, length).transpose(0, 1);
    const at::Tensor kr = k.narrow(0, begin, length).transpose(0, 1).repeat_interleave(groups, 0);
    const at::Tensor vr = v.narrow(0, begin, length).transpose(0, 1).repeat_interleave(groups, 0);
    at::Tensor scores = at::matmul(qr, kr.transpose(1, 2)) * scale;
    if (c.softcap) scores = (scores / *c.softcap).tanh() * *c.softcap;
    const at::Tensor position = at::arange(length, at::kLong), distance = position.unsqueeze(1) - position;
    if (c.alibi) scores = scores - at::tensor(slopes_of(c), at::kDouble).view({-1, 1, 1}) * distance;
    at::Tensor hidden = distance.lt(0);
    if (c.window) hidden = hidden.logical_or(distance.ge(*c.window));
    at::Tensor p = scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()).softmax(2);
    if (dropout != nullptr) {
      const at::Tensor mask = dropout_mask(*dropout, static_cast<int64_t>(r), c.heads * length * length);
      p = p * mask.view({c.heads, length, length}).to(at::kDouble);
    }
    rows.push_back(at::matmul(p, vr).transpose(0, 1));
  }
  return at::cat(rows, 0);
}

class Attention : public testing::TestWithParam<Case> {};

TEST_P(Attention, MatchesAutograd) {
  const Case& c = GetParam();
  Random random(21);
  const int64_t tokens = c.cu_seqlens.back();
  // q, k, v are views of one fused tensor, as in the decoder.
  const at::Tensor fused = random.normal({tokens, c.heads + 2 * c.kv_heads, c.head_dim}, c.dtype);
  const at::Tensor q = fused.narrow(1, 0, c.heads), k = fused.narrow(1, c.heads, c.kv_heads),
                   v = fused.narrow(1, c.heads + c.kv_heads, c.kv_heads);
  const at::Tensor grad_out = random.normal({tokens, c.heads, c.head_dim}, c.dtype);
  const Given given(c, 0.4);
  const AttentionOptions& options = given.options;
  const DropoutSite* dropout = given.dropout();

  const at::Tensor rq = leaf(q), rk = leaf(k), rv = leaf(v);
  const at::Tensor expected = reference(c, rq, rk, rv, options.scale, dropout);
  expected.backward(grad_out.to(at::kDouble));

  AttentionSaved saved;
  const at::Tensor out =
      attention_forward(q, k, v, c.cu_seqlens, options, dropout, ComputeDtype::kFp32, &saved);
  const AttentionGrads grads =
      attention_backward(grad_out, q, k, v, out, c.cu_seqlens, options, dropout, ComputeDtype::kFp32, saved);
  EXPECT_EQ(grads.k.sizes(), k.sizes());
  EXPECT_EQ(grads.v.sizes(), v.sizes());
  if (tokens == 0) return;
  // Rounding of sums over a row, or over a head's features, grows with their length.
  const double length = std::max(static_cast<double>(tokens) / 512, static_cast<double>(c.head_dim) / 128);
  const double torchs = c.head_dim % 16 == 0 ? 1 : 1.5;  // such heads go through LibTorch's attention
  const double tolerance = torchs * tolerance_of(c.dtype) * std::max(1.0, std::sqrt(length));
  expect_close(out, expected, tolerance, "out");
  expect_close(grads.q, rq.grad(), tolerance, "grad q");
  expect_close(grads.k, rk.grad(), tolerance, "grad k");
  expect_close(grads.v, rv.grad(), tolerance, "grad v");
  EXPECT_TRUE(
      attention_forward(q, k, v, c.cu_seqlens, options, dropout, ComputeDtype::kFp32, nullptr).equal(out));
}

// The head sizes of models, rows around the sizes of blocks and long ones, from one key/value head to all.
std::vector<Case> usual_sizes(at::ScalarType dtype) {
  std::vector<Case> all;
  for (const int64_t head_dim : {48, 64, 80, 96, 128}) {
    for (const int64_t kv_heads : {1, 2, 4}) all.push_back({{0, 1, 3, 66, 130, 195}, 4, kv_heads, head_dim, dtype});
    all.push_back({{0, 511}, 2, 1, head_dim, dtype});
  }
  all.push_back({{0, 4096}, 1, 1, 64, dtype});
  // No longer: at 4096, two heads' matrices in float64 take 268 MB, and the reference holds several at once.
  all.push_back({{0, 2048}, 2, 1, 80, dtype, 700});
  return all;
}

// What the softmax may be of, and dropout behind it, alone and together, over several blocks of queries.
std::vector<Case> with_extras(at::ScalarType dtype) {
  const std::vector<int64_t> rows{0, 1, 1, 64, 201, 331};
  std::vector<Case> all{{rows, 4, 2, 32, dtype, std::nullopt, 2.0},
                        {rows, 4, 1, 256, dtype, 64, 50.0},
                        {rows, 4, 4, 16, dtype, std::nullopt, std::nullopt, 0.1},
                        {rows, 4, 2, 64, dtype, 40, std::nullopt, 0.5},
                        {rows, 4, 2, 32, dtype, std::nullopt, std::nullopt, 0.0, true},
                        {rows, 6, 3, 16, dtype, 70, 3.0, 0.3, true}};
  for (const int64_t head_dim : {48, 80, 96, 128}) {
    all.push_back({rows, 4, 2, head_dim, dtype, 40});
    all.push_back({rows, 4, 1, head_dim, dtype, std::nullopt, 2.0});
    all.push_back({rows, 4, 4, head_dim, dtype, std::nullopt, std::nullopt, 0.0, true});
    all.push_back({rows, 4, 2, head_dim, dtype, 70, 3.0, 0.0, true});
  }
  return all;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    all.push_back({{0, 5}, 2, 2, 4, dtype});
    all.push_back({{0, 1, 18, 20}, 6, 2, 8, dtype});
    all.push_back({{0, 70, 201}, 9, 3, 64, dtype});
    all.push_back({{0, 1, 1, 65, 193, 257}, 4, 2, 16, dtype});  // block edges, and a row without tokens
    all.push_back({{0, 77}, 3, 3, 48, dtype});
    all.push_back({{0, 17, 30}, 4, 1, 8, dtype, 5});
    all.push_back({{0, 17, 30}, 4, 2, 8, dtype, 64});  // wider than any row
    all.push_back({{0, 17, 30}, 4, 2, 8, dtype, std::nullopt, 2.0});
    all.push_back({{0, 17, 30}, 4, 2, 8, dtype, std::nullopt, std::nullopt, 0.3});
    all.push_back({{0, 17, 30}, 4, 2, 8, dtype, 6, 2.0, 0.3});
    all.push_back({{0, 17, 30}, 4, 2, 16, dtype, 5, 2.0});
    all.push_back({{0, 1, 71, 201}, 4, 2, 32, dtype, 64});
    all.push_back({{0, 1, 71, 201}, 4, 2, 32, dtype, 2});
    all.push_back({{0, 17, 30}, 4, 2, 16, dtype, std::nullopt, std::nullopt, 0.0, true});
    for (const Case& c : with_extras(dtype)) all.push_back(c);
    for (const int64_t length : {65, 300}) {  // a head size that is no multiple of 16
      all.push_back({{0, length}, 4, 2, 100, dtype});
      all.push_back({{0, length}, 4, 2, 100, dtype, 40});
    }
    all.push_back({{0, 17, 30}, 6, 3, 8, dtype, 5, std::nullopt, 0.3, true});
    all.push_back({{0}, 4, 2, 8, dtype});  // no rows
    for (const Case& c : usual_sizes(dtype)) all.push_back(c);
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Cases, Attention, testing::ValuesIn(cases()));

// Operands rounded to bf16, given as fp32 or as what `operand` makes of them; `forward` and `backward`
// compute.
template <typename Forward, typename Backward>
void expect_close_as_bf16_is(const Case& c, bool rounded_before, const Forward& forward,
                             const Backward& backward) {
  Random random(22);
  const int64_t tokens = c.cu_seqlens.back();
  const at::Tensor fused = random.normal({tokens, c.heads + 2 * c.kv_heads, c.head_dim}, at::kFloat);
  const auto views = [&](const at::Tensor& t) {
    return std::array{t.narrow(1, 0, c.heads), t.narrow(1, c.heads, c.kv_heads),
                      t.narrow(1, c.heads + c.kv_heads, c.kv_heads)};
  };
  const auto [q, k, v] = views(rounded_before ? operand(fused, ComputeDtype::kBf16) : fused);
  const at::Tensor grad_out = random.normal({tokens, c.heads, c.head_dim}, at::kFloat);
  const auto [fq, fk, fv] = views(fused);
  const at::Tensor rq = leaf(fq), rk = leaf(fk), rv = leaf(fv);
  const Given given(c, 0.25);
  const at::Tensor expected = reference(c, rq, rk, rv, 0.25, given.dropout());
  expected.backward(grad_out.to(at::kDouble));
  AttentionSaved saved;
  const at::Tensor out = forward(q, k, v, given, saved);
  const AttentionGrads grads = backward(grad_out, q, k, v, out, given, saved);
  EXPECT_EQ(out.scalar_type(), q.scalar_type());
  for (const at::Tensor& grad : {grads.q, grads.k, grads.v}) EXPECT_EQ(grad.scalar_type(), at::kFloat);
  constexpr double kBf16 = 1e-2;
  expect_close(out, expected, kBf16, "out");
  expect_close(grads.q, rq.grad(), kBf16, "grad q");
  expect_close(grads.k, rk.grad(), kBf16, "grad k");
  expect_close(grads.v, rv.grad(), kBf16, "grad v");
  EXPECT_GT(relative_l2(out, expected), 1e-4) << "bf16 operands leave a trace";
}

class AttentionBf16 : public testing::TestWithParam<Case> {};

TEST_P(AttentionBf16, IsAsCloseAsBf16Is) {
  const Case& c = GetParam();
  for (const bool rounded_before : {false, true}) {
    expect_close_as_bf16_is(
        c, rounded_before,
        [&](const auto& q, const auto& k, const auto& v, const Given& given, auto& saved) {
          return attention_forward(q, k, v, c.cu_seqlens, given.options, given.dropout(), ComputeDtype::kBf16,
                                   &saved);
        },
        [&](const auto& grad, const auto& q, const auto& k, const auto& v, const auto& out,
            const Given& given, const auto& saved) {
          return attention_backward(grad, q, k, v, out, c.cu_seqlens, given.options, given.dropout(),
                                    ComputeDtype::kBf16, saved);
        });
  }
}

// The kernel for processors that multiply bf16, on any.
TEST_P(AttentionBf16, SoIsTheKernelForProcessorsThatMultiplyIt) {
  const Case& c = GetParam();
  if (c.head_dim % 16 != 0) return;  // another's
  expect_close_as_bf16_is(
      c, false,
      [&](const auto& q, const auto& k, const auto& v, const Given& given, auto& saved) {
        return cpu::bf16_attention_forward(q, k, v, c.cu_seqlens, given.options, given.dropout(), &saved);
      },
      [&](const auto& grad, const auto& q, const auto& k, const auto& v, const auto& out, const Given& given,
          const auto& saved) {
        return cpu::bf16_attention_backward(grad, q, k, v, out, c.cu_seqlens, given.options, given.dropout(),
                                            saved);
      });
}

INSTANTIATE_TEST_SUITE_P(
    Cases, AttentionBf16,
    testing::Values(Case{{0, 33, 50}, 4, 2, 16, at::kFloat}, Case{{0, 1, 3, 20}, 4, 2, 8, at::kFloat},
                    Case{{0, 70, 201}, 9, 3, 64, at::kFloat},
                    Case{{0, 2, 2, 65, 193, 257}, 4, 2, 16, at::kFloat}, Case{{0, 77}, 3, 3, 48, at::kFloat},
                    Case{{0, 63, 127, 638}, 4, 1, 96, at::kFloat}, Case{{0, 130}, 2, 1, 80, at::kFloat},
                    Case{{0, 3, 131}, 2, 2, 128, at::kFloat}, Case{{0, 17, 30}, 4, 2, 16, at::kFloat, 5},
                    Case{{0, 2, 71, 201}, 4, 2, 32, at::kFloat, 64},
                    Case{{0, 3, 71, 201}, 4, 2, 32, at::kFloat, 2}, Case{{0, 65}, 4, 2, 100, at::kFloat},
                    Case{{0, 300}, 4, 2, 100, at::kFloat}));
INSTANTIATE_TEST_SUITE_P(UsualSizes, AttentionBf16, testing::ValuesIn(usual_sizes(at::kFloat)));
INSTANTIATE_TEST_SUITE_P(Extras, AttentionBf16, testing::ValuesIn(with_extras(at::kFloat)));

// Rows share nothing: what a row comes to does not depend on those beside it.
TEST(AttentionRows, DoNotDependOnOneAnother) {
  Random random(23);
  const at::Tensor q = random.normal({130, 4, 32}, at::kFloat), k = random.normal({130, 2, 32}, at::kFloat),
                   v = random.normal({130, 2, 32}, at::kFloat);
  AttentionOptions options;
  const std::vector<int64_t> both{0, 51, 130}, second{0, 79};
  const at::Tensor grad_out = random.normal({130, 4, 32}, at::kFloat);
  const auto rows = [](const at::Tensor& t) { return t.narrow(0, 51, 79); };
  for (const ComputeDtype compute : {ComputeDtype::kFp32, ComputeDtype::kBf16}) {
    AttentionSaved saved, saved_alone;
    const at::Tensor out = attention_forward(q, k, v, both, options, nullptr, compute, &saved);
    const at::Tensor alone =
        attention_forward(rows(q), rows(k), rows(v), second, options, nullptr, compute, &saved_alone);
    EXPECT_TRUE(rows(out).equal(alone));
    const AttentionGrads grads =
        attention_backward(grad_out, q, k, v, out, both, options, nullptr, compute, saved);
    const AttentionGrads grads_alone = attention_backward(rows(grad_out), rows(q), rows(k), rows(v), alone,
                                                          second, options, nullptr, compute, saved_alone);
    EXPECT_TRUE(rows(grads.q).equal(grads_alone.q));
    EXPECT_TRUE(rows(grads.k).equal(grads_alone.k));
    EXPECT_TRUE(rows(grads.v).equal(grads_alone.v));
  }
}

TEST(Bf16Gemm, MatchesDouble) {
  Random random(24);
  for (const int64_t m : {1, 4, 12, 31, 64}) {
    for (const int64_t n : {16, 48, 80}) {
      for (const int64_t words : {1, 8, 33}) {
        const at::Tensor a = random.normal({m, 2 * words}, at::kFloat).to(at::kBFloat16);
        const at::Tensor b = random.normal({words, n, 2}, at::kFloat).to(at::kBFloat16);
        const at::Tensor product =
            a.to(at::kDouble).mm(b.to(at::kDouble).permute({0, 2, 1}).reshape({2 * words, n}));
        const at::Tensor before = random.normal({m, n + 5}, at::kFloat);
        for (const bool accumulate : {false, true}) {
          const at::Tensor c = before.clone();
          cpu::bf16_gemm({m, n, words, static_cast<const uint32_t*>(a.const_data_ptr()), words,
                          static_cast<const uint32_t*>(b.const_data_ptr()), n, c.mutable_data_ptr<float>(),
                          n + 5, accumulate});
          const at::Tensor base = before.narrow(1, 0, n).to(at::kDouble);
          expect_close(c.narrow(1, 0, n), accumulate ? base + product : product, 2e-6, "c");
          EXPECT_TRUE(c.narrow(1, n, 5).equal(before.narrow(1, n, 5))) << "written beyond the end";
        }
      }
    }
  }
}

}  // namespace attention_test
}  // namespace sft::ops
