// What a run's options ask of the engine.
#include <gtest/gtest.h>

#include "train/run_parts.h"

namespace sft::train {
namespace {

TEST(EngineOptions, AreThoseOfTheRun) {
  config::Options options;
  const engine::EngineOptions plain = engine_options(options, "cpu", {});
  EXPECT_FALSE(plain.gradient_checkpointing);
  EXPECT_EQ(plain.compute, ops::ComputeDtype::kFp32);
  EXPECT_EQ(plain.frozen_dtype, c10::kFloat);
  EXPECT_TRUE(plain.device.is_cpu());

  options.precision.gradient_checkpointing = true;
  options.precision.bf16 = true;
  options.adapter.base_dtype = "bfloat16";
  parallel::Topology topology;
  topology.local_rank = 3;
  const engine::EngineOptions asked = engine_options(options, "cuda", topology);
  EXPECT_TRUE(asked.gradient_checkpointing);
  EXPECT_EQ(asked.compute, ops::ComputeDtype::kBf16);
  EXPECT_EQ(asked.frozen_dtype, c10::kBFloat16);
  EXPECT_EQ(asked.device, c10::Device(c10::kCUDA, 3));
}

}  // namespace
}  // namespace sft::train
