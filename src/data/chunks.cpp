#include "data/chunks.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "sft/base/error.h"
#include "sft/base/log.h"

namespace sft::data {
namespace {

using Bytes = std::vector<std::byte>;
using base::ExitCode;
using base::fail;

constexpr std::size_t kCheckSumBytes = 4;
constexpr std::size_t kCacheBytes = std::size_t{64} << 20;

[[noreturn]] void refuse(const std::string& what, const std::string& why) {
  fail(ExitCode::kInvalidData, "{} cannot be read: {}", what, why);
}

// At most `limit` bytes, whatever the data would become.
Bytes inflated(const Bytes& stored, std::size_t limit, const std::string& what) {
  Bytes result(limit);
  z_stream stream{};
  if (inflateInit(&stream) != Z_OK) throw std::bad_alloc();
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(stored.data()));
  stream.avail_in = static_cast<uInt>(stored.size());
  stream.next_out = reinterpret_cast<Bytef*>(result.data());
  stream.avail_out = static_cast<uInt>(result.size());
  const int status = inflate(&stream, Z_FINISH);
  const std::size_t size = stream.total_out;
  inflateEnd(&stream);
  if (status == Z_DATA_ERROR || status == Z_NEED_DICT) refuse(what, "its compressed data is damaged");
  if (status != Z_STREAM_END)
    refuse(what, size == limit ? "it becomes larger than a chunk" : "its compressed data ends early");
  result.resize(size);
  return result;
}

// Byte 0 of all elements lies before byte 1 of all elements, and so on; what is no whole element comes last.
Bytes unshuffled(const Bytes& stored, std::size_t element_bytes) {
  Bytes result(stored);
  const std::size_t elements = stored.size() / element_bytes;
  for (std::size_t b = 0; b < element_bytes; ++b) {
    for (std::size_t i = 0; i < elements; ++i) result[i * element_bytes + b] = stored[b * elements + i];
  }
  return result;
}

// Fletcher's sums over big-endian words of 16 bits, as HDF5 has them.
uint32_t fletcher32(std::span<const std::byte> bytes) {
  constexpr std::size_t kWordsWithoutOverflow = 360;
  const auto fold = [](uint32_t sum) { return (sum & 0xffff) + (sum >> 16); };
  uint32_t first = 0, second = 0;
  const std::size_t words = (bytes.size() + 1) / 2;
  for (std::size_t i = 0; i < words; ++i) {
    const auto high = static_cast<uint32_t>(bytes[2 * i]);
    const auto low = 2 * i + 1 < bytes.size() ? static_cast<uint32_t>(bytes[2 * i + 1]) : 0;
    first += high << 8 | low;
    second += first;
    if ((i + 1) % kWordsWithoutOverflow == 0) first = fold(first), second = fold(second);
  }
  first = fold(fold(first));
  second = fold(fold(second));
  return second << 16 | first;
}

Bytes without_check_sum(Bytes stored, const std::string& what) {
  if (stored.size() < kCheckSumBytes) refuse(what, "its check sum is missing");
  uint32_t expected = 0;
  std::memcpy(&expected, stored.data() + stored.size() - kCheckSumBytes, kCheckSumBytes);
  stored.resize(stored.size() - kCheckSumBytes);
  if (fletcher32(stored) != expected) refuse(what, "its check sum (fletcher32) does not fit");
  return stored;
}

}  // namespace

Bytes decode_chunk(Bytes stored, uint32_t skipped, const ArrayLayout& array, const std::string& what) {
  const auto chunk_bytes = static_cast<std::size_t>(array.chunk_bytes());
  for (std::size_t i = array.filters.size(); i-- > 0;) {
    if (skipped >> i & 1) continue;
    switch (array.filters[i]) {
      case Filter::kShuffle:
        stored = unshuffled(stored, static_cast<std::size_t>(array.element_bytes));
        break;
      case Filter::kDeflate:
        stored = inflated(stored, chunk_bytes + kCheckSumBytes, what);
        break;
      case Filter::kFletcher32:
        stored = without_check_sum(std::move(stored), what);
        break;
    }
  }
  if (stored.size() != chunk_bytes)
    refuse(what, fmt::format("a chunk has {} bytes instead of {}", stored.size(), chunk_bytes));
  return stored;
}

class ChunkReader::Cache {
 public:
  explicit Cache(std::size_t max_chunks) : max_chunks_(max_chunks) {}

  Chunk find(int64_t index) {
    const std::lock_guard lock(mutex_);
    const auto found = by_index_.find(index);
    if (found == by_index_.end()) return nullptr;
    newest_first_.splice(newest_first_.begin(), newest_first_, found->second);
    return found->second->second;
  }

  void put(int64_t index, Chunk chunk) {
    const std::lock_guard lock(mutex_);
    if (by_index_.contains(index)) return;  // another thread was faster
    newest_first_.emplace_front(index, std::move(chunk));
    by_index_[index] = newest_first_.begin();
    if (by_index_.size() <= max_chunks_) return;
    by_index_.erase(newest_first_.back().first);
    newest_first_.pop_back();
  }

 private:
  const std::size_t max_chunks_;
  std::mutex mutex_;
  std::list<std::pair<int64_t, Chunk>> newest_first_;
  std::unordered_map<int64_t, std::list<std::pair<int64_t, Chunk>>::iterator> by_index_;
};

ChunkReader::ChunkReader(std::shared_ptr<const base::File> file, std::string name, ArrayLayout layout)
    : file_(std::move(file)),
      name_(std::move(name)),
      layout_(std::move(layout)),
      cache_(std::make_unique<Cache>(
          std::max<std::size_t>(1, kCacheBytes / static_cast<std::size_t>(layout_.chunk_bytes())))) {}

ChunkReader::~ChunkReader() = default;

ChunkReader::Chunk ChunkReader::chunk(int64_t index) const {
  if (Chunk found = cache_->find(index)) return found;
  const StoredChunk& place = layout_.chunks[static_cast<std::size_t>(index)];
  Bytes stored(static_cast<std::size_t>(place.bytes));
  file_->read_at(place.offset, stored);
  const std::string what = fmt::format("{}: {}, from element {} on,", file_->path().string(),
                                       log::printable(name_), index * layout_.chunk_elements);
  auto made = std::make_shared<const Bytes>(decode_chunk(std::move(stored), place.skipped, layout_, what));
  cache_->put(index, made);
  return made;
}

void ChunkReader::read(int64_t first, std::span<std::byte> out) const {
  const int64_t chunk_bytes = layout_.chunk_bytes();
  while (!out.empty()) {
    const Chunk source = chunk(first / chunk_bytes);
    const std::span<const std::byte> rest =
        std::span(*source).subspan(static_cast<std::size_t>(first % chunk_bytes));
    const std::size_t count = std::min(rest.size(), out.size());
    std::copy_n(rest.begin(), count, out.begin());
    out = out.subspan(count);
    first += static_cast<int64_t>(count);
  }
}

}  // namespace sft::data
