// Data set files for tests (docs/data-format.md): whole ones, and ones with a chosen fault.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace sft::test {

enum class Storage { kContiguous, kChunked, kDeflated };

struct DatasetContent {
  std::vector<std::vector<int32_t>> rows;
  std::vector<std::vector<uint8_t>> loss_mask;  // either may be empty
  std::vector<std::vector<int32_t>> labels;
  int64_t vocab_size = 100;
  std::string tokenizer_sha256 = std::string(64, 'a');
  std::string prepare_config = R"({"dataset_text_field": "text"})";
  Storage storage = Storage::kContiguous;
  // Lies: instead of what follows from the labels.
  std::vector<int32_t> first_target;
  std::optional<int64_t> num_target_tokens;
};

void write_dataset(const std::filesystem::path& path, const DatasetContent& content);

// Lengths from `lengths`, ids from a formula of row and position, all below `vocab_size`.
DatasetContent formula_dataset(const std::vector<int64_t>& lengths, int64_t vocab_size = 100);

// Where the elements of the arrays of a finished data set file lie, as they are stored.
struct ByteRange {
  int64_t begin, end;
};
std::vector<ByteRange> storage_ranges(const std::filesystem::path& path);

// Objects of an HDF5 file under construction, or of a finished one that is to be spoilt. Adding an object
// replaces one of that name. Throws std::runtime_error when the library fails.
class Hdf5Editor {
 public:
  enum class Mode { kCreate, kEdit };
  Hdf5Editor(const std::filesystem::path& path, Mode mode, int64_t user_block = 0);
  ~Hdf5Editor();
  Hdf5Editor(const Hdf5Editor&) = delete;
  Hdf5Editor& operator=(const Hdf5Editor&) = delete;

  void attribute(const std::string& name, int64_t value);
  void attribute(const std::string& name, const std::string& value);
  void variable_length_attribute(const std::string& name, const std::string& value);
  void remove_attribute(const std::string& name);
  void remove(const std::string& name);

  // With an xxh3 attribute of the values.
  template <typename T>
  void array(const std::string& name, const std::vector<T>& values, Storage storage = Storage::kContiguous);
  void string(const std::string& name, const std::string& text);

  // Faults.
  void soft_link(const std::string& name, const std::string& target);
  void external_link(const std::string& name, const std::string& file, const std::string& target);
  void external_storage(const std::string& name, const std::string& file, int64_t num_elements);  // int32
  void virtual_array(const std::string& name, const std::string& file, int64_t num_elements);     // int32
  void matrix(const std::string& name, int64_t rows, int64_t columns);                            // int32
  void big_endian(const std::string& name, int64_t num_elements);                                 // int32
  void group(const std::string& name);
  void unwritten_chunks(const std::string& name, int64_t num_elements, int64_t chunk_elements);  // int32
  void other_filter(const std::string& name, int64_t num_elements);  // int32, N-bit

 private:
  void hash_attribute(const std::string& dataset, const std::string& text);
  int64_t file_ = -1;
};

}  // namespace sft::test
