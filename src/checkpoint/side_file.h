// The small files of a checkpoint, which rank 0 writes.
#pragma once

#include <filesystem>

#include "checkpoint/manifest.h"
#include "sft/checkpoint/checkpoint.h"

namespace sft::checkpoint {

// Local. A new file in the folder, synced.
void write_side_file(const std::filesystem::path& folder, const SideFile& side_file);
// What the manifest says of it.
FileRecord record_of(const SideFile& file, int64_t chunk_bytes);

}  // namespace sft::checkpoint
