#include <array>
#include <bit>

#include "data/random_draw.h"

namespace sft::data {
namespace {

constexpr int kPoolWords = 4;

// numpy.random.SeedSequence (after M. O'Neill's seed_seq_fe), for an entropy of at most two words and no
// spawn key.
class SeedSequence {
 public:
  explicit SeedSequence(uint64_t seed) {
    const std::array<uint32_t, kPoolWords> entropy = {static_cast<uint32_t>(seed),
                                                      static_cast<uint32_t>(seed >> 32)};
    uint32_t constant = 0x43b0d7e5;
    for (int i = 0; i < kPoolWords; ++i) pool_[i] = hash(entropy[i], constant, 0x931e8875);
    for (int from = 0; from < kPoolWords; ++from) {
      for (int to = 0; to < kPoolWords; ++to) {
        if (from != to) pool_[to] = mix(pool_[to], hash(pool_[from], constant, 0x931e8875));
      }
    }
  }

  std::array<uint64_t, 4> generate() const {
    std::array<uint64_t, 4> words{};
    uint32_t constant = 0x8b51f9dd;
    for (std::size_t i = 0; i < 8; ++i) {
      const uint64_t word = hash(pool_[i % kPoolWords], constant, 0x58f38ded);
      words[i / 2] |= word << (32 * (i % 2));
    }
    return words;
  }

 private:
  static uint32_t hash(uint32_t value, uint32_t& constant, uint32_t multiplier) {
    value ^= constant;
    constant *= multiplier;
    value *= constant;
    return value ^ value >> 16;
  }
  static uint32_t mix(uint32_t x, uint32_t y) {
    const uint32_t result = 0xca01f9dd * x - 0x4973f715 * y;
    return result ^ result >> 16;
  }

  std::array<uint32_t, kPoolWords> pool_{};
};

}  // namespace

NumpyDraw::NumpyDraw(uint64_t seed) {
  const std::array<uint64_t, 4> words = SeedSequence(seed).generate();
  increment_ = (uint128{words[2]} << 64 | words[3]) << 1 | 1;
  advance();
  state_ += uint128{words[0]} << 64 | words[1];
  advance();
}

void NumpyDraw::advance() {
  constexpr uint128 kMultiplier = uint128{0x2360ed051fc65da4} << 64 | 0x4385df649fccf645;
  state_ = state_ * kMultiplier + increment_;
}

uint64_t NumpyDraw::next64() {
  advance();
  const uint64_t folded = static_cast<uint64_t>(state_ >> 64) ^ static_cast<uint64_t>(state_);
  const int rotation = static_cast<int>(state_ >> 122);
  return folded >> rotation | folded << (-rotation & 63);
}

uint32_t NumpyDraw::next32() {
  has_half_ = !has_half_;
  if (!has_half_) return half_;
  const uint64_t word = next64();
  half_ = static_cast<uint32_t>(word >> 32);
  return static_cast<uint32_t>(word);
}

uint64_t NumpyDraw::up_to(uint64_t last) {
  const uint64_t mask = std::bit_ceil(last + 1) - 1;
  uint64_t value = 0;
  do {
    value = mask & (last <= UINT32_MAX ? next32() : next64());
  } while (value > last);
  return value;
}

}  // namespace sft::data
