// Manifests of checkpoints: the input is the text without the hash at its end, which is added here, or
// nothing behind it would ever be read.
#include <string>

#include "checkpoint/manifest.h"
#include "fuzz.h"
#include "sft/base/hash.h"

namespace {

using sft::checkpoint::FileRecord;
using sft::checkpoint::HashedRange;
using sft::checkpoint::Manifest;

void require_ranges(const Manifest& manifest, const FileRecord& file) {
  int64_t covered = 0;
  for (const HashedRange& range : file.ranges) {
    sft::fuzz::require(range.bytes > 0 && range.bytes <= file.bytes - covered, "ranges within the file");
    covered += range.bytes;
    const int64_t chunks = (range.bytes - 1) / manifest.chunk_bytes + 1;
    sft::fuzz::require(std::ssize(range.digests) == chunks * sft::checkpoint::kDigestChars,
                       "a digest for each chunk");
  }
  sft::fuzz::require(covered == file.bytes, "ranges that cover the file");
}

}  // namespace

void sft::fuzz::one_input(std::string_view input) {
  Manifest manifest;
  const auto parse = [&manifest](std::string_view text) {
    return accepted([&] { manifest = checkpoint::parse_manifest(text, "input"); });
  };
  parse(input);
  const std::string text =
      std::string(input) + ",\n  \"manifest_xxh3\": \"" + base::xxh3_hex(input) + "\"\n}\n";
  if (!parse(text)) return;
  require(manifest.chunk_bytes >= checkpoint::kMinChunkBytes &&
              manifest.chunk_bytes <= checkpoint::kMaxChunkBytes,
          "chunks of a sane size");
  for (const FileRecord& file : manifest.files) {
    require(checkpoint::is_safe_name(file.name), "a name inside the checkpoint");
    require_ranges(manifest, file);
  }
  // What was understood is what would be written.
  const std::string again = checkpoint::manifest_text(manifest);
  require(parse(again) && checkpoint::manifest_text(manifest) == again,
          "the same manifest, written and read");
}
