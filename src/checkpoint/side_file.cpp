#include "checkpoint/side_file.h"

#include <string_view>
#include <utility>

#include "sft/base/file.h"
#include "sft/base/hash.h"

namespace sft::checkpoint {

bool can_be_side_file(std::string_view name) {
  return is_safe_name(name) && name.find('/') == std::string_view::npos && name != "trainer_state.json" &&
         !name.ends_with(".safetensors") && !name.ends_with(".safetensors.index.json");
}

void write_side_file(const std::filesystem::path& folder, const SideFile& side_file) {
  const std::filesystem::path path = folder / side_file.name;
  std::filesystem::create_directories(path.parent_path());
  base::File file(path, base::File::Mode::kCreate);
  file.write_at(0, std::as_bytes(std::span(side_file.bytes)));
  file.sync();
  file.close();
}

FileRecord record_of(const SideFile& file, int64_t chunk_bytes) {
  FileRecord record{file.name, std::ssize(file.bytes), {}};
  if (file.bytes.empty()) return record;
  HashedRange range{record.bytes, {}};
  for (int64_t begin = 0; begin < record.bytes; begin += chunk_bytes) {
    range.digests +=
        base::xxh3_hex(std::string_view(file.bytes)
                           .substr(static_cast<std::size_t>(begin), static_cast<std::size_t>(chunk_bytes)));
  }
  record.ranges.push_back(std::move(range));
  return record;
}

}  // namespace sft::checkpoint
