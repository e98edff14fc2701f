// A file of a checkpoint whose every byte is compared with the manifest before it is handed out.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "sft/base/file.h"
#include "sft/model/weights.h"

namespace sft::checkpoint {

class VerifiedFile final : public model::ByteSource {
 public:
  // Local. Error(kInvalidData) when the file is missing or has another size than the manifest says.
  VerifiedFile(const std::filesystem::path& folder, const FileRecord& record, int64_t chunk_bytes);

  const std::filesystem::path& path() const override { return file_.path(); }
  int64_t size() const override { return size_; }
  // Whole chunks are read and hashed; Error(kInvalidData) naming file and byte range when one does not match.
  void read_at(int64_t offset, std::span<std::byte> out) const override;
  int64_t bytes_read() const override { return bytes_read_; }

  // Index of the first chunk that begins at `offset` or after it; the number of chunks when there is none.
  int64_t first_chunk_from(int64_t offset) const;
  int64_t chunk_begin(int64_t chunk) const;  // size() for the number of chunks
  void verify_chunk(int64_t chunk) const;    // not counted by bytes_read()

 private:
  struct Chunk {
    int64_t begin = 0, size = 0;
    std::string digest;
  };
  using Buffer = std::shared_ptr<const std::vector<std::byte>>;

  int64_t chunk_at(int64_t offset) const;
  void read_chunk(const Chunk& chunk, std::span<std::byte> out) const;
  Buffer cached_chunk(int64_t index) const;

  base::File file_;
  int64_t size_;
  std::vector<Chunk> chunks_;
  mutable std::atomic<int64_t> bytes_read_{0};
  // Chunks that were needed in part: the neighbouring tensor or range needs the rest.
  mutable std::mutex cache_mutex_;
  mutable std::deque<std::pair<int64_t, Buffer>> cache_;
};

}  // namespace sft::checkpoint
