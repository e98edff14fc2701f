// xxh3-128 (integrity), streaming and in one call, and SHA-256 (identity of tokenizers); digests are lower-case hex digits, of xxh3 in
// canonical (big-endian) byte order.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace sft::base {

class Xxh3 {
 public:
  Xxh3();
  ~Xxh3();
  Xxh3(Xxh3&&) noexcept;
  Xxh3& operator=(Xxh3&&) noexcept;
  void update(std::span<const std::byte> bytes);
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string xxh3_hex(std::span<const std::byte> bytes);
std::string xxh3_hex(std::string_view text);
std::string sha256_hex(std::string_view bytes);

}  // namespace sft::base
