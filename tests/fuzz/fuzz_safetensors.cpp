// Headers of safetensors files: what is accepted covers the file, and is the same after being written and
// read again.
#include <algorithm>
#include <cstring>
#include <filesystem>

#include "fuzz.h"
#include "sft/model/safetensors.h"

namespace {

namespace model = sft::model;

// A file of which only the first bytes are given; the others are zeros and take no memory.
class SparseFile final : public model::ByteSource {
 public:
  SparseFile(std::string_view begin, int64_t size) : begin_(begin), size_(size) {}
  const std::filesystem::path& path() const override { return path_; }
  int64_t size() const override { return size_; }
  int64_t bytes_read() const override { return 0; }
  void read_at(int64_t offset, std::span<std::byte> out) const override {
    sft::fuzz::require(offset >= 0 && std::ssize(out) <= size_ && offset <= size_ - std::ssize(out),
                       "reading inside the file");
    std::ranges::fill(out, std::byte{0});
    const auto first = static_cast<std::size_t>(offset);
    if (first >= begin_.size() || out.empty()) return;
    std::memcpy(out.data(), begin_.data() + first, std::min(out.size(), begin_.size() - first));
  }

 private:
  const std::filesystem::path path_ = "input";
  std::string_view begin_;
  int64_t size_;
};

bool same(const model::SafetensorsEntry& a, const model::SafetensorsEntry& b) {
  return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape && a.begin == b.begin && a.end == b.end;
}

}  // namespace

// The first 8 bytes of the input are the size of a file that consists of the others and zeros.
void sft::fuzz::one_input(std::string_view input) {
  int64_t size = 0;
  if (input.size() < sizeof(size)) return;
  std::memcpy(&size, input.data(), sizeof(size));
  const std::string_view begin = input.substr(sizeof(size));
  size = std::max(size & INT64_MAX, static_cast<int64_t>(begin.size()));
  if (size > 1 << 20 && begin.size() >= sizeof(uint64_t)) {  // a long header would be zeros, and slow
    uint64_t length = 0;
    std::memcpy(&length, begin.data(), sizeof(length));
    if (length > 1 << 20 && length <= 100'000'000) return;
  }
  model::SafetensorsHeader header;
  if (!sft::fuzz::accepted([&] { header = model::read_safetensors_header(SparseFile(begin, size)); })) return;
  int64_t position = 0;
  for (const model::SafetensorsEntry& entry : header.entries) {
    sft::fuzz::require(entry.begin == position && entry.end >= entry.begin, "tensors behind one another");
    position = entry.end;
  }
  sft::fuzz::require(position == size - header.data_start, "tensors up to the end of the file");

  std::vector<model::SafetensorsEntry> entries = header.entries;
  const std::string text = model::make_safetensors_header(entries, header.metadata);
  const int64_t new_size = static_cast<int64_t>(text.size()) + position;
  if (new_size < 0) return;
  const model::SafetensorsHeader again = model::read_safetensors_header(SparseFile(text, new_size));
  sft::fuzz::require(
      std::ranges::equal(header.entries, again.entries, same) && header.metadata == again.metadata,
      "writing and reading again");
}
