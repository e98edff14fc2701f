// What the ops tests share: repeatable random tensors, comparison, and leaves for LibTorch's own autograd in
// float64.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "sft/ops/ops.h"

namespace sft::ops::test {

// A stream of random tensors that depends on the seed alone.
class Random {
 public:
  explicit Random(uint64_t seed) : generator_(at::detail::createCPUGenerator(seed)) {}
  at::Tensor normal(at::IntArrayRef sizes, at::ScalarType dtype = at::kDouble) {
    return at::randn(sizes, generator_, at::TensorOptions(at::kDouble)).to(dtype);
  }
  at::Tensor ids(int64_t count, int64_t below) {
    return at::randint(below, {count}, generator_, at::TensorOptions(at::kLong));
  }

 private:
  at::Generator generator_;
};

// A float64 copy that autograd follows.
inline at::Tensor leaf(const at::Tensor& t) {
  return t.to(at::kDouble).clone().set_requires_grad(true);
}

// ||actual - expected|| / ||expected||
inline double relative_l2(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor a = actual.to(at::kDouble), e = expected.detach().to(at::kDouble);
  const double scale = e.norm().item<double>();
  return (a - e).norm().item<double>() / (scale > 0 ? scale : 1.0);
}

inline void expect_close(const at::Tensor& actual, const at::Tensor& expected, double tolerance,
                         const char* what) {
  ASSERT_TRUE(actual.defined()) << what;
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  EXPECT_LE(relative_l2(actual, expected), tolerance) << what;
}

// Tolerance of a comparison with float64, by the dtype under test.
inline double tolerance_of(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-12 : 2e-6;
}

}  // namespace sft::ops::test
