// Random first values of adapters: a function of (seed, tensor name, element), the same on every rank.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

namespace sft::model {

void fill_uniform(const at::Tensor& t, double bound, std::string_view name,
                  uint64_t seed);  // [-bound, bound)
void fill_normal(const at::Tensor& t, double deviation, std::string_view name, uint64_t seed);  // mean 0

// 32 bits of a name, stable over versions (FNV-1a).
uint32_t name_bits(std::string_view name);

}  // namespace sft::model
