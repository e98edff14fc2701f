// The permutations of torch and numpy, draw by draw.
#pragma once

#include <cstdint>
#include <vector>

namespace sft::data {

// ATen's randperm on the CPU has two branches, chosen by n: below 2^32 / 20 one 32-bit draw a swap,
// Fisher-Yates from the front; from there on a 64-bit draw a step, inside out.
inline constexpr int64_t kTorchWideRows = UINT32_MAX / 20;
std::vector<int64_t> torch_randperm_narrow(int64_t n, uint64_t seed);
std::vector<int64_t> torch_randperm_wide(int64_t n, uint64_t seed);

// numpy.random.Generator over PCG64 (XSL-RR 128/64), seeded through SeedSequence.
class NumpyDraw {
 public:
  explicit NumpyDraw(uint64_t seed);

  // In [0, last], as Generator.shuffle draws it: masked rejection over 32 bits where they suffice, else
  // over 64.
  uint64_t up_to(uint64_t last);

 private:
  __extension__ using uint128 = unsigned __int128;

  void advance();
  uint64_t next64();
  uint32_t next32();  // the low half of a 64-bit draw, then its high half

  uint128 state_ = 0, increment_ = 0;
  bool has_half_ = false;
  uint32_t half_ = 0;
};

}  // namespace sft::data
