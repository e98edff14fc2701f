#include "checkpoint/verified_file.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "sft/base/error.h"
#include "sft/base/hash.h"

namespace sft::checkpoint {
namespace {

using base::ExitCode;
using base::fail;

constexpr std::size_t kCachedChunks = 16;  // two for each of eight threads that read side by side

}  // namespace

VerifiedFile::VerifiedFile(const std::filesystem::path& folder, const FileRecord& record, int64_t chunk_bytes)
    : file_(folder / record.name, base::File::Mode::kRead), size_(record.bytes) {
  if (file_.size() != size_) {
    fail(ExitCode::kInvalidData, "{} has {} bytes, its manifest says {}", path().string(), file_.size(),
         size_);
  }
  int64_t position = 0;
  for (const HashedRange& range : record.ranges) {
    for (int64_t begin = 0; begin < range.bytes; begin += chunk_bytes) {
      const int64_t size = std::min(chunk_bytes, range.bytes - begin);
      const auto digest = static_cast<std::size_t>(begin / chunk_bytes * kDigestChars);
      chunks_.push_back({position, size, range.digests.substr(digest, kDigestChars)});
      position += size;
    }
  }
}

int64_t VerifiedFile::chunk_at(int64_t offset) const {
  const auto after = std::ranges::upper_bound(chunks_, offset, {}, &Chunk::begin);
  return after - chunks_.begin() - 1;
}

int64_t VerifiedFile::first_chunk_from(int64_t offset) const {
  return std::ranges::lower_bound(chunks_, offset, {}, &Chunk::begin) - chunks_.begin();
}

int64_t VerifiedFile::chunk_begin(int64_t chunk) const {
  return chunk == std::ssize(chunks_) ? size_ : chunks_[static_cast<std::size_t>(chunk)].begin;
}

void VerifiedFile::read_chunk(const Chunk& chunk, std::span<std::byte> out) const {
  file_.read_at(chunk.begin, out);
  if (base::xxh3_hex(std::span<const std::byte>(out)) != chunk.digest) {
    fail(ExitCode::kInvalidData, "{}: bytes {} to {} do not match their hash in the manifest",
         path().string(), chunk.begin, chunk.begin + chunk.size);
  }
}

void VerifiedFile::verify_chunk(int64_t index) const {
  const Chunk& chunk = chunks_[static_cast<std::size_t>(index)];
  std::vector<std::byte> buffer(static_cast<std::size_t>(chunk.size));
  read_chunk(chunk, buffer);
}

VerifiedFile::Buffer VerifiedFile::cached_chunk(int64_t index) const {
  {
    const std::lock_guard lock(cache_mutex_);
    const auto found = std::ranges::find(cache_, index, &std::pair<int64_t, Buffer>::first);
    if (found != cache_.end()) return found->second;
  }
  const Chunk& chunk = chunks_[static_cast<std::size_t>(index)];
  auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(chunk.size));
  read_chunk(chunk, *bytes);
  bytes_read_ += chunk.size;
  const std::lock_guard lock(cache_mutex_);
  cache_.emplace_back(index, bytes);
  if (cache_.size() > kCachedChunks) cache_.pop_front();
  return bytes;
}

void VerifiedFile::read_at(int64_t offset, std::span<std::byte> out) const {
  if (out.empty()) return;
  const int64_t end = offset + std::ssize(out);
  if (offset < 0 || end > size_) {
    fail(ExitCode::kInvalidData, "{}: bytes {} to {} asked of {}", path().string(), offset, end, size_);
  }
  const int64_t first = chunk_at(offset), last = chunk_at(end - 1);
  for (int64_t i = first; i <= last; ++i) {
    const Chunk& chunk = chunks_[static_cast<std::size_t>(i)];
    const int64_t begin = std::max(offset, chunk.begin);
    const auto size = static_cast<std::size_t>(std::min(end, chunk.begin + chunk.size) - begin);
    const std::span<std::byte> part = out.subspan(static_cast<std::size_t>(begin - offset), size);
    if (std::ssize(part) == chunk.size) {
      read_chunk(chunk, part);
      bytes_read_ += chunk.size;
    } else {
      std::memcpy(part.data(), cached_chunk(i)->data() + (begin - chunk.begin), size);
    }
  }
}

}  // namespace sft::checkpoint
