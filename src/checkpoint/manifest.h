// MANIFEST.json: what a checkpoint consists of, down to the hash of every chunk. Format:
// docs/checkpoint-format.md.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sft::checkpoint {

inline constexpr const char* kManifestName = "state/MANIFEST.json";
inline constexpr int64_t kMaxManifestBytes = int64_t{1} << 30;
inline constexpr int64_t kMinChunkBytes = 4096;
inline constexpr int64_t kMaxChunkBytes = int64_t{4} << 20;
inline constexpr int64_t kDigestChars = 32;

// Consecutive bytes of a file, cut into chunks of Manifest::chunk_bytes (the last may be shorter).
struct HashedRange {
  int64_t bytes = 0;
  std::string digests;  // xxh3-128 of each chunk, kDigestChars each
};

struct FileRecord {
  std::string name;  // relative to the checkpoint
  int64_t bytes = 0;
  std::vector<HashedRange> ranges;
};

struct Manifest {
  int64_t step = 0;
  int64_t world_size = 0;  // of the run that wrote it; nothing depends on it
  int64_t chunk_bytes = 0;
  std::string train_state, environment;  // JSON objects
  std::vector<FileRecord> files;

  const FileRecord* find(std::string_view name) const;  // null when there is none
};

std::string manifest_text(const Manifest& manifest);
// Error(kInvalidData) naming `where` and what is wrong.
Manifest parse_manifest(std::string_view text, const std::string& where);

// Smallest allowed power of two that keeps the number of chunks, and so the manifest, moderate.
int64_t choose_chunk_bytes(int64_t total_bytes);

// A relative path of one or two plain components: nothing that leaves the folder.
bool is_safe_name(std::string_view name);

}  // namespace sft::checkpoint
