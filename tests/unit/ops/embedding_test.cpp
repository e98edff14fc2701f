// Embedding rows and their gradient; repeated ids add up, the padding row takes none.
#include <ATen/ops/embedding.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include "unit/ops/reference.h"

namespace sft::ops {
namespace embedding_test {

using namespace test;

class Embedding : public testing::TestWithParam<std::tuple<at::ScalarType, int64_t, int64_t>> {};

TEST_P(Embedding, MatchesAutograd) {
  const auto [dtype, tokens, padding] = GetParam();
  Random random(31);
  const at::Tensor ids = random.ids(tokens, 11), weight = random.normal({11, 23}, dtype);
  const at::Tensor grad_y = random.normal({tokens, 23}, dtype);
  const at::Tensor rw = leaf(weight);
  const at::Tensor ry = at::embedding(rw, ids, padding);
  ry.backward(grad_y.to(at::kDouble));
  EXPECT_TRUE(embedding_forward(ids, weight).equal(ry.detach().to(dtype)));
  const at::Tensor grad = at::ones({11, 23}, weight.options());
  embedding_backward(grad_y, ids, grad, padding >= 0 ? std::optional<int64_t>(padding) : std::nullopt);
  expect_close(grad, rw.grad() + 1.0, tolerance_of(dtype), "grad weight");
  if (padding >= 0) {
    EXPECT_TRUE(grad[padding].eq(1.0).all().item<bool>());
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Embedding,
                         testing::Combine(testing::Values(at::kFloat, at::kDouble),
                                          testing::Values(0, 1, 200), testing::Values(-1, 0, 7)));

}  // namespace embedding_test
}  // namespace sft::ops
