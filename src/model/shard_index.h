// model.safetensors.index.json: which file of the folder holds which tensor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "sft/model/safetensors.h"

namespace sft::model {

struct ShardIndex {
  std::map<std::string, std::string> weight_map;  // tensor -> file, a plain name
  std::optional<int64_t> total_size;              // bytes of all tensors
};

// Error kInvalidData naming `where`: not such a file, or it names files outside its folder.
ShardIndex parse_shard_index(std::string_view text, const std::string& where);

// Error kInvalidData naming the tensor unless the shard `file` holds those that the index at `path` puts
// there.
void check_shard(const std::filesystem::path& path, const ShardIndex& index, const std::string& file,
                 const SafetensorsHeader& header);

}  // namespace sft::model
