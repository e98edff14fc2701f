// model.safetensors.index.json: which file of the folder holds which tensor.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "sft/model/safetensors.h"

namespace sft::model {

struct ShardIndex {
  std::map<std::string, std::string> weight_map;  // tensor -> file, a plain name
};

// Error kInvalidData naming `where`: not such a file, or it names files outside its folder.
ShardIndex parse_shard_index(std::string_view text, const std::string& where);

// Error kInvalidData naming the tensor when the shard `file` holds one that the index at `path` puts elsewhere, or nowhere. One that it lists and
// no file holds is no error: converters leave out what is tied and keep its entry.
void check_shard(const std::filesystem::path& path, const ShardIndex& index, const std::string& file,
                 const SafetensorsHeader& header);

}  // namespace sft::model
