// An opened data set file (docs/data-format.md): its header checked, its tokens not yet read.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/file_layout.h"
#include "data/stored_array.h"
#include "sft/base/hash.h"
#include "sft/data/dataset_info.h"

namespace sft::data {

struct DatasetFile {
  std::filesystem::path path;
  DatasetInfo info;
  std::vector<int64_t> offsets;  // [num_rows + 1], checked
  StoredArray<int32_t> input_ids;
  std::optional<StoredArray<uint8_t>> loss_mask;  // at most one of the two
  std::optional<StoredArray<int32_t>> labels;
  std::optional<StoredArray<int32_t>> first_target;  // present with either
  std::map<std::string, std::string> xxh3;           // of each dataset, as the file states it

  static DatasetFile open(const std::filesystem::path& path);
  // With a layout from layout_from_json(); the file's content is checked against it.
  static DatasetFile open(std::shared_ptr<const base::File> bytes, FileLayout layout);

  int64_t length(int64_t row) const {
    const std::size_t r = static_cast<std::size_t>(row);
    return offsets[r + 1] - offsets[r];
  }
  // Read whole and checked against its hash and the rows' lengths; empty when every label is the id.
  std::vector<int32_t> read_first_targets() const;
  // Error kInvalidData unless `digest` is what the file states for this dataset.
  void check_xxh3(const std::string& dataset, const std::string& digest) const;
  int64_t row_of_token(int64_t token) const;

  // Errors kInvalidData naming row and value of the first element that is not allowed; values[0] is that of
  // `first_token`.
  void check_ids(std::span<const int32_t> values, int64_t first_token) const;
  void check_labels(std::span<const int32_t> values, int64_t first_token) const;
  void check_loss_mask(std::span<const uint8_t> values, int64_t first_token) const;
};

// Reads everything and checks every id, label and hash. Error kInvalidData.
void verify_content(const DatasetFile& file);

// Calls visit(first element, values) for one block after another and returns the hash of all of them.
template <typename T, typename Visit>
std::string visit_blocks(const StoredArray<T>& array, Visit&& visit) {
  constexpr int64_t kBlockElements = int64_t{1} << 18;
  std::vector<T> block;
  base::Xxh3 hash;
  for (int64_t first = 0; first < array.size(); first += kBlockElements) {
    block.resize(static_cast<std::size_t>(std::min(kBlockElements, array.size() - first)));
    array.read(first, block);
    hash.update(std::as_bytes(std::span(block)));
    visit(first, std::span<const T>(block));
  }
  return hash.hex();
}

}  // namespace sft::data
