// 4-bit NormalFloat weights (Dettmers et al., "QLoRA", 2023), laid out as bitsandbytes does.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace sft::ops {

// Blocks of 64 elements of the flattened tensor; an element is kLevels[code] * absmax[its block].
struct Nf4Tensor {
  at::Tensor codes;   // uint8 [(numel + 1) / 2]: two elements a byte, the first in the high four bits
  at::Tensor absmax;  // fp32 [blocks]; undefined when nested
  // Nested (double quantisation): absmax[i] = map[absmax_codes[i]] * nested_absmax[i / 256] + offset, in bitsandbytes' 8-bit dynamic map.
  at::Tensor absmax_codes;   // uint8 [blocks]
  at::Tensor nested_absmax;  // fp32 [(blocks + 255) / 256]
  float offset = 0.0F;
  std::vector<int64_t> shape;

  bool defined() const { return codes.defined(); }
  int64_t numel() const;
};

// What a tensor of so many elements takes in memory.
int64_t nf4_bytes(int64_t numel, bool nested);
// Local. weight: fp32 on the CPU, any shape.
Nf4Tensor nf4_quantize(const at::Tensor& weight, bool nested);
// Local. The values in fp32, rounded to `dtype`, on the device of `codes`.
at::Tensor nf4_dequantize(const Nf4Tensor& tensor, at::ScalarType dtype);
Nf4Tensor nf4_to(const Nf4Tensor& tensor, const c10::Device& device);

}  // namespace sft::ops
