// Indices of sharded models: they name plain files of their own folder.
#include "fuzz.h"
#include "model/shard_index.h"

void sft::fuzz::one_input(std::string_view input) {
  sft::model::ShardIndex index;
  if (!sft::fuzz::accepted([&] { index = sft::model::parse_shard_index(input, "input"); })) return;
  sft::fuzz::require(!index.weight_map.empty(), "tensors");
  for (const auto& [tensor, file] : index.weight_map) {
    sft::fuzz::require(file.find('/') == std::string::npos && file.find('\0') == std::string::npos &&
                           file.front() != '.' && file.ends_with(".safetensors"),
                       "a plain name");
  }
}
