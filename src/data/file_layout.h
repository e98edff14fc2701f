// What only the HDF5 library can tell of a data set file: its attributes, and where in the file its arrays
// lie.
//
// It is found out in another process (inspector.h), so nothing it says is trusted: check_layout().
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "sft/data/dataset_info.h"

namespace sft::data {

inline constexpr int64_t kMaxChunkBytes = int64_t{64} << 20;
inline constexpr int64_t kMaxChunks = int64_t{1} << 20;
inline constexpr int64_t kMaxCompression = 1100;  // deflate reaches at most 1032

enum class Filter { kShuffle, kDeflate, kFletcher32 };

struct StoredChunk {
  int64_t offset = 0, bytes = 0;  // in the file
  uint32_t skipped = 0;           // bit i: filter i of the array was not applied
};

// One-dimensional, little-endian integers. Contiguous, or in chunks of equal length, the last one filled up.
struct ArrayLayout {
  int64_t element_bytes = 0;             // 1: uint8, 4: int32, 8: int64
  int64_t size = 0;                      // elements
  std::string xxh3 = {};                 // as the file states it
  int64_t offset = 0;                    // where a contiguous array begins
  int64_t chunk_elements = 0;            // 0: contiguous
  std::vector<Filter> filters = {};      // of chunks, in the order in which they were applied
  std::vector<StoredChunk> chunks = {};  // in the order of their elements

  int64_t chunk_bytes() const { return chunk_elements * element_bytes; }
};

struct FileLayout {
  int64_t file_bytes = 0;
  DatasetInfo info = {};  // without num_rows
  std::string prepare_config_xxh3 = {};
  std::map<std::string, ArrayLayout> arrays = {};
};

// Error kInvalidData naming `path` and the array: bytes outside the file, sizes that wrap, chunks that are
// too large, too many, missing or compressed better than deflate can.
void check_layout(const FileLayout& layout, const std::filesystem::path& path);

// Bytes that are not UTF-8 are replaced, so that what they stand in differs from any hash.
std::string to_json(const FileLayout& layout);
// A layout that check_layout() accepts; Error kInvalidData.
FileLayout layout_from_json(std::string_view text, const std::filesystem::path& path);

}  // namespace sft::data
