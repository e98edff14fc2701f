#include "checkpoint/writer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "sft/base/checked.h"
#include "sft/base/error.h"
#include "sft/base/file.h"
#include "sft/base/hash.h"

namespace sft::checkpoint {
namespace {

using base::ExitCode;
using base::fail;

constexpr std::size_t kCaptureSlack = 64;          // one part in so many
constexpr int64_t kWriteBytes = int64_t{8} << 20;  // between two looks at whether the save is still wanted

void check_data(const TensorSlice& slice) {
  if (!slice.data.defined() || slice.data.scalar_type() != at::kFloat || !slice.data.is_contiguous() ||
      slice.data.numel() != slice.end - slice.begin) {
    fail(ExitCode::kInternal, "checkpoint tensor '{}': its data is not {} contiguous fp32 numbers",
         slice.name, slice.end - slice.begin);
  }
}

// The digests of consecutive chunks of what goes by, in parts of any size.
class ChunkDigests {
 public:
  explicit ChunkDigests(int64_t chunk_bytes) : chunk_bytes_(static_cast<std::size_t>(chunk_bytes)) {}

  void update(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const std::size_t size = std::min(chunk_bytes_ - held_, bytes.size());
      hash_.update(bytes.first(size));
      held_ += size;
      bytes = bytes.subspan(size);
      if (held_ == chunk_bytes_) end_chunk();
    }
  }
  std::string finish() {
    if (held_ > 0) end_chunk();
    return std::move(digests_);
  }

 private:
  void end_chunk() {
    digests_ += std::exchange(hash_, {}).hex();
    held_ = 0;
  }

  std::size_t chunk_bytes_, held_ = 0;
  base::Xxh3 hash_;
  std::string digests_;
};

}  // namespace

TensorWriter::TensorWriter(const Contents& contents, const Layout& layout, const Deal& deal, int rank)
    : layout_(layout), deal_(deal), rank_(rank), pieces_(layout.files.size()) {
  for (std::size_t file = 0; file < layout.files.size(); ++file) {
    const std::string& header = layout.files[file].header;
    pieces_[file][std::ssize(header)] = {0, std::ssize(header), header};
    add_slices(file, layout.files[file].name.starts_with("state/") ? contents.optimizer : contents.model);
  }
}

void TensorWriter::add_slices(std::size_t file, const std::vector<TensorSlice>& slices) {
  std::map<std::string_view, int64_t> start_of;
  const TensorFile& target = layout_.files[file];
  for (const model::SafetensorsEntry& entry : target.entries) {
    start_of[entry.name] = std::ssize(target.header) + entry.begin;
  }
  for (const TensorSlice& slice : slices) {
    const auto found = start_of.find(slice.name);
    if (found == start_of.end() || slice.end == slice.begin) continue;  // of another shard; or nothing
    check_data(slice);
    const int64_t end = found->second + slice.end * kElementBytes;
    pieces_[file][end] = {found->second + slice.begin * kElementBytes, end, {}, &slice};
  }
}

void TensorWriter::visit(std::size_t file, int64_t begin, int64_t end, const Take& take) const {
  while (begin < end) {
    const auto found = pieces_[file].upper_bound(begin);
    if (found == pieces_[file].end() || found->second.begin > begin) {
      fail(ExitCode::kInternal, "rank {} was dealt byte {} of {}, which it does not hold", rank_, begin,
           layout_.files[file].name);
    }
    const Piece& piece = found->second;
    const int64_t offset = begin - piece.begin, size = std::min(piece.end, end) - begin;
    if (piece.slice) {
      // Ranges are cut at multiples of the element size. cpu() copies only from a device.
      const at::Tensor part = piece.slice->data.narrow(0, offset / kElementBytes, size / kElementBytes).cpu();
      take({static_cast<const std::byte*>(part.const_data_ptr()), static_cast<std::size_t>(size)});
    } else {
      take(std::as_bytes(std::span(piece.text))
               .subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(size)));
    }
    begin += size;
  }
}

void TensorWriter::exchange_fragments(parallel::Communicator& comm) {
  if (deal_.fragments.empty()) return;
  std::string mine;
  for (const Fragment& fragment : deal_.fragments) {
    if (fragment.sender != rank_) continue;
    visit(fragment.file, fragment.begin, fragment.end, [&](std::span<const std::byte> bytes) {
      mine.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    });
  }
  fragments_ = comm.all_gather_bytes(mine);
  std::vector<std::size_t> position(fragments_.size(), 0);
  for (const Fragment& fragment : deal_.fragments) {
    const auto sender = static_cast<std::size_t>(fragment.sender);
    const auto size = static_cast<std::size_t>(fragment.end - fragment.begin);
    const std::string_view bytes = std::string_view(fragments_[sender]).substr(position[sender], size);
    position[sender] += size;
    if (fragment.receiver == rank_) {
      pieces_[fragment.file][fragment.end] = {fragment.begin, fragment.end, bytes};
    }
  }
}

void TensorWriter::capture(std::vector<std::byte>& buffer) {
  const auto bytes = static_cast<std::size_t>(bytes_this_rank());
  // Shares grow a little from save to save, with the log in trainer_state.json; what the buffer holds is not
  // copied.
  if (buffer.capacity() < bytes) {
    std::vector<std::byte>().swap(buffer);
    buffer.reserve(bytes + bytes / kCaptureSlack);
  }
  buffer.resize(bytes);
  std::byte* to = buffer.data();
  for (const WriteRange& range : deal_.ranges) {
    if (range.rank != rank_) continue;
    visit(range.file, range.begin, range.end, [&](std::span<const std::byte> part) {
      std::memcpy(to, part.data(), part.size());
      to += part.size();
    });
  }
  captured_ = buffer;
  for (auto& pieces : pieces_) pieces.clear();  // they lead to the contents
}

void TensorWriter::write(const std::filesystem::path& folder, int64_t chunk_bytes, const Retry& retry) {
  digests_.clear();
  std::span<const std::byte> rest = captured_;
  for (const WriteRange& range : deal_.ranges) {
    if (range.rank != rank_) continue;
    const std::filesystem::path path = folder / layout_.files[range.file].name;
    const auto captured =
        rest.first(captured_.empty() ? 0 : static_cast<std::size_t>(range.end - range.begin));
    rest = rest.subspan(captured.size());
    retry(path, [&] { digests_ += write_range(range, captured, path, chunk_bytes, retry); });
  }
}

std::string TensorWriter::write_range(const WriteRange& range, std::span<const std::byte> captured,
                                      const std::filesystem::path& path, int64_t chunk_bytes,
                                      const Retry& retry) const {
  base::File file(path, base::File::Mode::kReadWrite);
  ChunkDigests digests(chunk_bytes);
  int64_t at = range.begin;
  const auto write = [&](std::span<const std::byte> bytes) {
    digests.update(bytes);
    file.write_at(at, bytes);
    at += std::ssize(bytes);
  };
  while (at < range.end) {
    retry.check_wanted();
    const int64_t begin = at, end = std::min(at + kWriteBytes, range.end);
    if (captured.empty()) {
      visit(range.file, begin, end, write);
    } else {
      write(captured.subspan(static_cast<std::size_t>(begin - range.begin),
                             static_cast<std::size_t>(end - begin)));
    }
    file.begin_write_out(begin, end - begin);
  }
  file.sync();
  file.close();
  return digests.finish();
}

std::vector<FileRecord> TensorWriter::collect_records(parallel::Communicator& comm,
                                                      int64_t chunk_bytes) const {
  const std::vector<std::string> digests = comm.all_gather_bytes(digests_);
  std::vector<FileRecord> records;
  for (const TensorFile& file : layout_.files) records.push_back({file.name, file.size, {}});
  std::vector<std::size_t> position(digests.size(), 0);
  for (const WriteRange& range : deal_.ranges) {
    const auto rank = static_cast<std::size_t>(range.rank);
    const auto size =
        static_cast<std::size_t>(base::ceil_div(range.end - range.begin, chunk_bytes) * kDigestChars);
    records[range.file].ranges.push_back(
        {range.end - range.begin, digests[rank].substr(position[rank], size)});
    position[rank] += size;
  }
  return records;
}

int64_t TensorWriter::bytes_this_rank() const {
  int64_t total = 0;
  for (const WriteRange& range : deal_.ranges) {
    if (range.rank == rank_) total += range.end - range.begin;
  }
  return total;
}

}  // namespace sft::checkpoint
