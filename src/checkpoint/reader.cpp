#include "checkpoint/reader.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <span>
#include <utility>

#include "checkpoint/layout.h"
#include "sft/base/error.h"
#include "sft/base/file.h"
#include "sft/base/threads.h"

namespace sft::checkpoint {
namespace {

using base::ExitCode;
using base::fail;

// The files of a set "<stem>.safetensors" or "<stem>-0000i-of-0000n.safetensors", complete or an error; none:
// empty.
std::vector<std::string> tensor_file_names(const Manifest& manifest, const std::string& stem,
                                           const std::string& where) {
  if (manifest.find(stem + ".safetensors")) return {stem + ".safetensors"};
  int64_t count = 0;
  for (const FileRecord& file : manifest.files) {
    if (file.name.starts_with(stem + "-") && file.name.ends_with(".safetensors")) ++count;
  }
  if (count == 0) return {};
  std::vector<std::string> names = shard_names(stem, count);
  for (const std::string& name : names) {
    if (count == 1 || !manifest.find(name))
      fail(ExitCode::kInvalidData, "{}: a part of {} is missing", where, stem);
  }
  return names;
}

}  // namespace

CheckpointReader::CheckpointReader(const std::filesystem::path& path, Manifest manifest)
    : path_(path), manifest_(std::move(manifest)) {
  model_ = open_tensors(kModelStem);
  if (!model_) model_ = open_tensors(kAdapterStem);
  optimizer_ = open_tensors(kOptimizerStem);
  if (!model_) fail(ExitCode::kInvalidData, "{}: its manifest lists no model weights", path_.string());
}

std::unique_ptr<model::TensorSource> CheckpointReader::open_tensors(const std::string& stem) const {
  std::vector<std::unique_ptr<model::ByteSource>> files;
  for (const std::string& name : tensor_file_names(manifest_, stem, (path_ / kManifestName).string())) {
    files.push_back(std::make_unique<VerifiedFile>(path_, *manifest_.find(name), manifest_.chunk_bytes));
  }
  return files.empty() ? nullptr : model::open_safetensors(std::move(files));
}

std::string CheckpointReader::side_file(const std::string& name) const {
  const FileRecord* record = manifest_.find(name);
  if (!record)
    fail(ExitCode::kInvalidData, "{}: there is no file '{}' in this checkpoint", path_.string(), name);
  const VerifiedFile file(path_, *record, manifest_.chunk_bytes);
  std::string bytes(static_cast<std::size_t>(file.size()), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

const model::TensorSource& CheckpointReader::optimizer() const {
  if (!optimizer_)
    fail(ExitCode::kInvalidData, "{} has no optimizer state (it was saved with save_only_model)",
         path_.string());
  return *optimizer_;
}

void CheckpointReader::verify_part(int64_t part, int64_t parts) {
  int64_t total = 0;
  for (const FileRecord& record : manifest_.files) total += record.bytes;
  // A chunk belongs to the part in which its first byte lies.
  const auto bound = [&](int64_t p) { return total / parts * p + total % parts * p / parts; };
  const int64_t begin = bound(part), end = bound(part + 1);
  int64_t position = 0;  // of the file's first byte among all bytes
  for (const FileRecord& record : manifest_.files) {
    const VerifiedFile file(path_, record, manifest_.chunk_bytes);
    const int64_t first = file.first_chunk_from(begin - position),
                  last = file.first_chunk_from(end - position);
    base::run_parallel(last - first, at::get_num_threads(), [&](int64_t i) { file.verify_chunk(first + i); });
    bytes_verified_ += file.chunk_begin(last) - file.chunk_begin(first);
    position += record.bytes;
  }
}

std::string read_manifest_text(const std::filesystem::path& checkpoint) {
  const std::filesystem::path path = checkpoint / kManifestName;
  if (!std::filesystem::exists(path)) {
    fail(ExitCode::kInvalidData, "{} is not a checkpoint: there is no {} in it", checkpoint.string(),
         kManifestName);
  }
  return base::read_text(path, kMaxManifestBytes);
}

}  // namespace sft::checkpoint
