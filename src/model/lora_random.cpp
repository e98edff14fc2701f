#include "model/lora_random.h"

#include <ATen/ops/empty.h>

#include <cmath>
#include <numbers>

#include "sft/base/rng.h"

namespace sft::model {
namespace {

constexpr int64_t kLanes = 4;
constexpr uint32_t kPurpose = 0x6C6F7261;  // keeps these streams apart from dropout's

template <typename Fill>
void fill(const at::Tensor& t, std::string_view name, uint64_t seed, Fill&& four_values) {
  const at::Tensor values = at::empty({t.numel()}, at::TensorOptions(at::kFloat));
  float* out = values.mutable_data_ptr<float>();
  const std::array<uint32_t, 2> key{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int64_t begin = 0; begin < t.numel(); begin += kLanes) {
    const auto block = static_cast<uint64_t>(begin / kLanes);
    const std::array<float, 4> four = four_values(base::philox4x32(
        {static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), name_bits(name), kPurpose}, key));
    for (int64_t lane = 0; lane < kLanes && begin + lane < t.numel(); ++lane)
      out[begin + lane] = four[static_cast<std::size_t>(lane)];
  }
  at::Tensor(t).copy_(values.view(t.sizes()));
}

}  // namespace

uint32_t name_bits(std::string_view name) {
  uint32_t hash = 2166136261U;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
  return hash;
}

void fill_uniform(const at::Tensor& t, double bound, std::string_view name, uint64_t seed) {
  fill(t, name, seed, [bound](const base::Philox4& random) {
    std::array<float, 4> four{};
    for (std::size_t i = 0; i < 4; ++i)
      four[i] = static_cast<float>(bound * (2.0 * static_cast<double>(base::uniform01(random[i])) - 1.0));
    return four;
  });
}

// Box-Muller, two values of two.
void fill_normal(const at::Tensor& t, double deviation, std::string_view name, uint64_t seed) {
  fill(t, name, seed, [deviation](const base::Philox4& random) {
    std::array<float, 4> four{};
    for (std::size_t pair = 0; pair < 4; pair += 2) {
      const double u = 1.0 - static_cast<double>(base::uniform01(random[pair]));  // (0, 1]
      const double angle = 2.0 * std::numbers::pi * static_cast<double>(base::uniform01(random[pair + 1]));
      const double radius = deviation * std::sqrt(-2.0 * std::log(u));
      four[pair] = static_cast<float>(radius * std::cos(angle));
      four[pair + 1] = static_cast<float>(radius * std::sin(angle));
    }
    return four;
  });
}

}  // namespace sft::model
