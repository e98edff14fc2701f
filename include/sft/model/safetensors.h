// The safetensors format (without LibTorch: it is fuzzed).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "sft/base/file.h"

namespace sft::model {

// One tensor of a safetensors header; bytes [begin, end) counted from the end of the header.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // "F32", "BF16", "F16", "F64", "I64", ...
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;
};
struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in file order
  std::map<std::string, std::string> metadata;
  int64_t data_start = 0;  // 8 + header length
};

// The bytes of one file. A checkpoint's implementation verifies what it hands out.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual const std::filesystem::path& path() const = 0;
  virtual int64_t size() const = 0;
  // Local, thread-safe. Bytes [offset, offset + out.size()); in the calling thread.
  virtual void read_at(int64_t offset, std::span<std::byte> out) const = 0;
  virtual int64_t bytes_read() const = 0;
};

// Local. All of the reference implementation's rules (docs/checkpoint-format.md); Error(kInvalidData) naming
// file, tensor and rule.
SafetensorsHeader read_safetensors_header(const ByteSource& file);
SafetensorsHeader read_safetensors_header(const base::File& file);
// Local. The bytes before the data: length, JSON padded with blanks so that data_start is a multiple of 64.
// Entries are laid out in the given order; begin and end are filled in.
std::string make_safetensors_header(std::vector<SafetensorsEntry>& entries,
                                    const std::map<std::string, std::string>& metadata);

}  // namespace sft::model
