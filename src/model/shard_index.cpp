#include "model/shard_index.h"

#include <nlohmann/json.hpp>

#include "sft/base/error.h"
#include "sft/base/json.h"
#include "sft/base/log.h"

namespace sft::model {
namespace {

using base::ExitCode;
using base::fail;
using log::printable;

// An index names files of its own folder, and nothing else.
bool is_shard_name(const std::string& name) {
  constexpr std::string_view kAllowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  return name.size() <= 255 && !name.starts_with('.') && name.ends_with(".safetensors") &&
         name.find_first_not_of(kAllowed) == std::string::npos;
}

}  // namespace

ShardIndex parse_shard_index(std::string_view text, const std::string& where) {
  const nlohmann::json parsed = base::parse_json(text, where);
  if (!parsed.is_object() || !parsed.contains("weight_map") || !parsed["weight_map"].is_object()) {
    fail(ExitCode::kInvalidData, "{}: there is no object 'weight_map'", where);
  }
  ShardIndex index;
  for (const auto& [tensor, file] : parsed["weight_map"].items()) {
    if (!file.is_string() || !is_shard_name(file.get<std::string>())) {
      fail(ExitCode::kInvalidData,
           "{}: the file given for tensor '{}' is not a plain *.safetensors file name of that folder", where,
           printable(tensor));
    }
    index.weight_map[tensor] = file.get<std::string>();
  }
  if (index.weight_map.empty()) fail(ExitCode::kInvalidData, "{}: 'weight_map' is empty", where);
  return index;
}

void check_shard(const std::filesystem::path& path, const ShardIndex& index, const std::string& file,
                 const SafetensorsHeader& header) {
  for (const SafetensorsEntry& entry : header.entries) {
    const auto found = index.weight_map.find(entry.name);
    if (found == index.weight_map.end() || found->second != file) {
      fail(ExitCode::kInvalidData, "{}: tensor '{}' lies in {}, but the index {}", path.string(),
           printable(entry.name), file,
           found == index.weight_map.end() ? "does not list it" : "says it is in " + found->second);
    }
  }
}

}  // namespace sft::model
