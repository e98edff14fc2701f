// Chunked arrays of a data set file: their chunks are found by the layout, read and decoded here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/file_layout.h"
#include "sft/base/file.h"

namespace sft::data {

// The array.chunk_bytes() bytes of a chunk as it is stored in the file. Never holds more than that and a
// check sum. Error kInvalidData naming `what`: damaged, or of another size.
std::vector<std::byte> decode_chunk(std::vector<std::byte> stored, uint32_t skipped, const ArrayLayout& array,
                                    const std::string& what);

// Reads byte ranges of an array and keeps the chunks used last: rows are read in random order.
class ChunkReader {
 public:
  ChunkReader(std::shared_ptr<const base::File> file, std::string name, ArrayLayout layout);
  ~ChunkReader();
  // Thread-safe. Bytes [first, first + out.size()) of the array.
  void read(int64_t first, std::span<std::byte> out) const;

 private:
  using Chunk = std::shared_ptr<const std::vector<std::byte>>;
  class Cache;
  Chunk chunk(int64_t index) const;

  std::shared_ptr<const base::File> file_;
  std::string name_;
  ArrayLayout layout_;
  std::unique_ptr<Cache> cache_;
};

}  // namespace sft::data
