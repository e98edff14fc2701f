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

constexpr std::size_t kCaptureSlack = 64;         // one part in so many
constexpr int64_t kWriteBytes = int64_t{8} << 20;  // a multiple of every chunk size

void copy_slice(const TensorSlice& slice, int64_t offset, std::span<std::byte> out) {
  if (slice.data.is_cpu()) {
    std::memcpy(out.data(), static_cast<const std::byte*>(slice.data.const_data_ptr()) + offset, out.size());
    return;
  }
  // Ranges are cut at multiples of the element size.
  const at::Tensor part = slice.data.narrow(0, offset / kElementBytes, std::ssize(out) / kElementBytes).cpu();
  std::memcpy(out.data(), part.const_data_ptr(), out.size());
}

void check_data(const TensorSlice& slice) {
  if (!slice.data.defined() || slice.data.scalar_type() != at::kFloat || !slice.data.is_contiguous() ||
      slice.data.numel() != slice.end - slice.begin) {
    fail(ExitCode::kInternal, "checkpoint tensor '{}': its data is not {} contiguous fp32 numbers",
         slice.name, slice.end - slice.begin);
  }
}

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

void TensorWriter::copy(std::size_t file, int64_t begin, std::span<std::byte> out) const {
  while (!out.empty()) {
    const auto found = pieces_[file].upper_bound(begin);
    if (found == pieces_[file].end() || found->second.begin > begin) {
      fail(ExitCode::kInternal, "rank {} was dealt byte {} of {}, which it does not hold", rank_, begin,
           layout_.files[file].name);
    }
    const Piece& piece = found->second;
    const auto size = static_cast<std::size_t>(std::min(piece.end - begin, std::ssize(out)));
    const int64_t offset = begin - piece.begin;
    if (piece.slice) {
      copy_slice(*piece.slice, offset, out.first(size));
    } else {
      std::memcpy(out.data(), piece.text.data() + offset, size);
    }
    begin += static_cast<int64_t>(size);
    out = out.subspan(size);
  }
}

void TensorWriter::exchange_fragments(parallel::Communicator& comm) {
  if (deal_.fragments.empty()) return;
  std::string mine;
  for (const Fragment& fragment : deal_.fragments) {
    if (fragment.sender != rank_) continue;
    const auto size = static_cast<std::size_t>(fragment.end - fragment.begin);
    mine.resize(mine.size() + size);
    copy(fragment.file, fragment.begin, std::as_writable_bytes(std::span(mine)).last(size));
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
  // Shares grow a little from save to save, with the log in trainer_state.json; what the buffer holds is not copied.
  if (buffer.capacity() < bytes) {
    std::vector<std::byte>().swap(buffer);
    buffer.reserve(bytes + bytes / kCaptureSlack);
  }
  buffer.resize(bytes);
  std::span<std::byte> rest = buffer;
  for (const WriteRange& range : deal_.ranges) {
    if (range.rank != rank_) continue;
    const auto size = static_cast<std::size_t>(range.end - range.begin);
    copy(range.file, range.begin, rest.first(size));
    rest = rest.subspan(size);
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
  std::string digests;
  std::vector<std::byte> buffer;
  base::File file(path, base::File::Mode::kReadWrite);
  for (int64_t begin = range.begin; begin < range.end; begin += kWriteBytes) {
    retry.check_wanted();
    const auto size = static_cast<std::size_t>(std::min(kWriteBytes, range.end - begin));
    std::span<const std::byte> bytes;
    if (captured.empty()) {
      buffer.resize(size);
      copy(range.file, begin, buffer);
      bytes = buffer;
    } else {
      bytes = captured.subspan(static_cast<std::size_t>(begin - range.begin), size);
    }
    for (int64_t chunk = 0; chunk < std::ssize(bytes); chunk += chunk_bytes) {
      const int64_t end = std::min(chunk + chunk_bytes, std::ssize(bytes));
      digests += base::xxh3_hex(
          bytes.subspan(static_cast<std::size_t>(chunk), static_cast<std::size_t>(end - chunk)));
    }
    file.write_at(begin, bytes);
    file.begin_write_out(begin, std::ssize(bytes));
  }
  file.sync();
  file.close();
  return digests;
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
