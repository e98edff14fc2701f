#include "checkpoint/manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "sft/base/error.h"
#include "sft/base/hash.h"
#include "sft/base/json.h"
#include "sft/base/log.h"

namespace sft::checkpoint {
namespace {

using base::ExitCode;
using base::fail;
using log::printable;
using nlohmann::json;

constexpr const char* kFormat = "sft-dist-checkpoint";
constexpr int64_t kVersion = 1;
constexpr int64_t kManyChunks = 32768;  // 1 MiB of digests
constexpr std::string_view kHashStart = ",\n  \"manifest_xxh3\": \"";
constexpr std::string_view kHashEnd = "\"\n}\n";

std::string file_digest(const FileRecord& file) {
  base::Xxh3 hash;
  for (const HashedRange& range : file.ranges) hash.update(std::as_bytes(std::span(range.digests)));
  return hash.hex();
}

bool is_digest_text(std::string_view text) {
  return text.size() % kDigestChars == 0 &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// The last field holds the hash of everything before it.
void check_hash(std::string_view text, const std::string& where) {
  constexpr std::size_t kTail = kHashStart.size() + kDigestChars + kHashEnd.size();
  if (text.size() < kTail || !text.ends_with(kHashEnd) ||
      text.substr(text.size() - kTail, kHashStart.size()) != kHashStart) {
    fail(ExitCode::kInvalidData, "{}: there is no manifest hash at its end: it is truncated, or no manifest",
         where);
  }
  const std::string_view body = text.substr(0, text.size() - kTail);
  const std::string_view stored = text.substr(body.size() + kHashStart.size(), kDigestChars);
  if (base::xxh3_hex(body) != stored)
    fail(ExitCode::kInvalidData, "{}: does not match its own hash: it was changed", where);
}

int64_t integer(const json& parsed, const char* key, const std::string& where) {
  const auto found = parsed.find(key);
  if (found == parsed.end() || !found->is_number_unsigned() || found->get<uint64_t>() > uint64_t{INT64_MAX}) {
    fail(ExitCode::kInvalidData, "{}: '{}' is not a non-negative integer", where, key);
  }
  return found->get<int64_t>();
}

std::string object_text(const json& parsed, const char* key, const std::string& where) {
  const auto found = parsed.find(key);
  if (found == parsed.end() || !found->is_object())
    fail(ExitCode::kInvalidData, "{}: '{}' is not an object", where, key);
  return found->dump();
}

HashedRange parse_range(const json& item, int64_t bytes_left, int64_t chunk_bytes, const std::string& what) {
  if (!item.is_array() || item.size() != 2 || !item[0].is_number_unsigned() || !item[1].is_string()) {
    fail(ExitCode::kInvalidData, "{} has a range that is not [bytes, digests]", what);
  }
  HashedRange range{0, item[1].get<std::string>()};
  if (const auto bytes = item[0].get<uint64_t>(); bytes == 0 || std::cmp_greater(bytes, bytes_left)) {
    fail(ExitCode::kInvalidData, "{} has a range of {} bytes where {} are left", what, bytes, bytes_left);
  }
  range.bytes = item[0].get<int64_t>();
  const int64_t chunks = (range.bytes - 1) / chunk_bytes + 1;
  if (std::ssize(range.digests) != chunks * kDigestChars || !is_digest_text(range.digests)) {
    fail(ExitCode::kInvalidData, "{} has a range of {} bytes without the {} digests of its chunks", what,
         range.bytes, chunks);
  }
  return range;
}

FileRecord parse_file(const std::string& name, const json& value, int64_t chunk_bytes,
                      const std::string& where) {
  const std::string what = fmt::format("{}: file '{}'", where, printable(name));
  if (!is_safe_name(name))
    fail(ExitCode::kInvalidData, "{}: is not a plain name inside the checkpoint", what);
  if (!value.is_object() || !value.contains("ranges") || !value["ranges"].is_array() ||
      !value.contains("xxh3")) {
    fail(ExitCode::kInvalidData, "{} is not described by bytes, xxh3 and ranges", what);
  }
  FileRecord file{name, integer(value, "bytes", what), {}};
  int64_t left = file.bytes;
  for (const json& item : value["ranges"]) {
    file.ranges.push_back(parse_range(item, left, chunk_bytes, what));
    left -= file.ranges.back().bytes;
  }
  if (left != 0) fail(ExitCode::kInvalidData, "{} has {} bytes that belong to no range", what, left);
  if (value["xxh3"] != file_digest(file))
    fail(ExitCode::kInvalidData, "{}: xxh3 does not match its digests", what);
  return file;
}

}  // namespace

const FileRecord* Manifest::find(std::string_view name) const {
  const auto found = std::ranges::find(files, name, &FileRecord::name);
  return found == files.end() ? nullptr : &*found;
}

std::string manifest_text(const Manifest& manifest) {
  std::string text = fmt::format(
      "{{\n  \"format\": \"{}\",\n  \"version\": {},\n  \"step\": {},\n  \"world_size\": {},\n  "
      "\"chunk_bytes\": {},\n"
      "  \"train_state\": {},\n  \"environment\": {},\n  \"files\": {{",
      kFormat, kVersion, manifest.step, manifest.world_size, manifest.chunk_bytes, manifest.train_state,
      manifest.environment);
  const char* separator = "\n";
  for (const FileRecord& file : manifest.files) {
    json ranges = json::array();
    for (const HashedRange& range : file.ranges) ranges.push_back({range.bytes, range.digests});
    text += fmt::format("{}    \"{}\": {{\"bytes\": {}, \"xxh3\": \"{}\", \"ranges\": {}}}", separator,
                        file.name, file.bytes, file_digest(file), ranges.dump());
    separator = ",\n";
  }
  text += "\n  }";
  const std::string hash = base::xxh3_hex(text);
  return text.append(kHashStart).append(hash).append(kHashEnd);
}

Manifest parse_manifest(std::string_view text, const std::string& where) {
  check_hash(text, where);
  const json parsed = base::parse_json(text, where, {.bytes = kMaxManifestBytes});
  if (!parsed.is_object() || parsed.value("format", json()) != kFormat) {
    fail(ExitCode::kInvalidData, "{}: is not an sft-dist manifest", where);
  }
  if (const int64_t version = integer(parsed, "version", where); version != kVersion) {
    fail(ExitCode::kInvalidData,
         "{}: has format version {}, this program reads {}: use the sft-dist that wrote it", where, version,
         kVersion);
  }
  Manifest manifest;
  manifest.step = integer(parsed, "step", where);
  manifest.world_size = integer(parsed, "world_size", where);
  manifest.chunk_bytes = integer(parsed, "chunk_bytes", where);
  if (manifest.chunk_bytes < kMinChunkBytes || manifest.chunk_bytes > kMaxChunkBytes) {
    fail(ExitCode::kInvalidData, "{}: chunk_bytes is {}, not between {} and {}", where, manifest.chunk_bytes,
         kMinChunkBytes, kMaxChunkBytes);
  }
  manifest.train_state = object_text(parsed, "train_state", where);
  manifest.environment = object_text(parsed, "environment", where);
  const auto files = parsed.find("files");
  if (files == parsed.end() || !files->is_object())
    fail(ExitCode::kInvalidData, "{}: 'files' is not an object", where);
  for (const auto& [name, value] : files->items()) {
    manifest.files.push_back(parse_file(name, value, manifest.chunk_bytes, where));
  }
  return manifest;
}

int64_t choose_chunk_bytes(int64_t total_bytes) {
  int64_t chunk_bytes = kMinChunkBytes;
  while (chunk_bytes < kMaxChunkBytes && total_bytes / chunk_bytes > kManyChunks) chunk_bytes *= 2;
  return chunk_bytes;
}

bool is_safe_name(std::string_view name) {
  constexpr std::string_view kAllowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  const auto is_component = [&](std::string_view part) {
    return !part.empty() && part.size() <= 255 && part.front() != '.' &&
           part.find_first_not_of(kAllowed) == std::string_view::npos;
  };
  const std::size_t slash = name.find('/');
  if (slash == std::string_view::npos) return is_component(name);
  return is_component(name.substr(0, slash)) && is_component(name.substr(slash + 1));
}

}  // namespace sft::checkpoint
