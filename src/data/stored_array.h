// An array of a data set file, read-only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "data/chunks.h"
#include "data/file_layout.h"
#include "sft/base/error.h"
#include "sft/base/file.h"

namespace sft::data {

// One-dimensional, of T in {uint8_t, int32_t, int64_t}. Reads nothing before read() is called.
template <typename T>
class StoredArray {
 public:
  // Error kInvalidData when the array is of another type.
  StoredArray(std::shared_ptr<const base::File> file, const std::string& name, const ArrayLayout& layout)
      : name_(name), size_(layout.size), file_offset_(layout.offset), file_(std::move(file)) {
    if (layout.element_bytes != sizeof(T)) {
      base::fail(base::ExitCode::kInvalidData, "{}: {} has elements of {} bytes", file_->path().string(),
                 name, layout.element_bytes);
    }
    if (layout.chunk_elements != 0) chunks_ = std::make_unique<ChunkReader>(file_, name, layout);
  }

  int64_t size() const { return size_; }
  const std::string& name() const { return name_; }

  // Thread-safe. Elements [first, first + out.size()), which must exist.
  void read(int64_t first, std::span<T> out) const {
    const int64_t first_byte = first * static_cast<int64_t>(sizeof(T));
    const std::span<std::byte> bytes = std::as_writable_bytes(out);
    if (chunks_) return chunks_->read(first_byte, bytes);
    file_->read_at(file_offset_ + first_byte, bytes);
  }

 private:
  std::string name_;
  int64_t size_;
  int64_t file_offset_;
  std::shared_ptr<const base::File> file_;
  std::unique_ptr<ChunkReader> chunks_;  // null: contiguous
};

}  // namespace sft::data
