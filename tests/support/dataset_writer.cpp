#include "support/dataset_writer.h"

#include <fmt/format.h>
#include <hdf5.h>

#include <algorithm>
#include <numeric>
#include <span>
#include <stdexcept>
#include <type_traits>

#include "sft/base/hash.h"

namespace sft::test {
namespace {

hid_t checked(hid_t result, const char* what) {
  if (result < 0) throw std::runtime_error(std::string("HDF5: ") + what);
  return result;
}

template <typename T>
hid_t file_type() {
  if constexpr (std::is_same_v<T, uint8_t>) return H5T_STD_U8LE;
  if constexpr (std::is_same_v<T, int32_t>) return H5T_STD_I32LE;
  if constexpr (std::is_same_v<T, int64_t>) return H5T_STD_I64LE;
}

hid_t vector_space(std::size_t size) {
  const hsize_t extent = size;
  return checked(H5Screate_simple(1, &extent, nullptr), "space");
}

hid_t string_type(std::size_t bytes) {
  const hid_t type = checked(H5Tcopy(H5T_C_S1), "string type");
  checked(H5Tset_size(type, bytes), "string size");
  checked(H5Tset_strpad(type, H5T_STR_NULLPAD), "string padding");
  return type;
}

void write_attribute(hid_t object, const std::string& name, hid_t type, const void* value) {
  if (H5Aexists(object, name.c_str()) > 0) checked(H5Adelete(object, name.c_str()), "delete attribute");
  const hid_t space = checked(H5Screate(H5S_SCALAR), "scalar");
  const hid_t attribute =
      checked(H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), "attribute");
  checked(H5Awrite(attribute, type, value), "write attribute");
  H5Aclose(attribute);
  H5Sclose(space);
}

hid_t creation_properties(Storage storage, std::size_t size) {
  const hid_t properties = checked(H5Pcreate(H5P_DATASET_CREATE), "properties");
  if (storage == Storage::kContiguous) return properties;
  const hsize_t chunk = std::clamp<hsize_t>(size, 1, 7);
  checked(H5Pset_chunk(properties, 1, &chunk), "chunk");
  if (storage == Storage::kDeflated) {
    checked(H5Pset_shuffle(properties), "shuffle");
    checked(H5Pset_deflate(properties, 6), "deflate");
  }
  return properties;
}

template <typename T>
std::vector<T> concatenated(const std::vector<std::vector<T>>& rows) {
  std::vector<T> all;
  for (const std::vector<T>& row : rows) all.insert(all.end(), row.begin(), row.end());
  return all;
}

template <typename T>
std::string digest(const std::vector<T>& values) {
  return base::xxh3_hex(std::as_bytes(std::span(values)));
}

template <typename T>
std::vector<int32_t> first_targets(const std::vector<std::vector<T>>& rows, T not_learnt) {
  std::vector<int32_t> result;
  for (const std::vector<T>& row : rows) {
    const auto first = std::find_if(row.begin(), row.end(), [&](T value) { return value != not_learnt; });
    result.push_back(static_cast<int32_t>(first - row.begin()));
  }
  return result;
}

}  // namespace

DatasetContent formula_dataset(const std::vector<int64_t>& lengths, int64_t vocab_size) {
  DatasetContent content;
  content.vocab_size = vocab_size;
  for (std::size_t row = 0; row < lengths.size(); ++row) {
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < lengths[row]; ++t) {
      ids.push_back(static_cast<int32_t>((static_cast<int64_t>(row) * 31 + t * 7 + 3) % vocab_size));
    }
    content.rows.push_back(ids);
  }
  return content;
}

void write_dataset(const std::filesystem::path& path, const DatasetContent& content) {
  const std::vector<int32_t> ids = concatenated(content.rows);
  std::vector<int64_t> offsets = {0};
  for (const auto& row : content.rows) offsets.push_back(offsets.back() + static_cast<int64_t>(row.size()));
  std::string hashes = fmt::format("input_ids={}\noffsets={}\n", digest(ids), digest(offsets));
  int64_t num_targets = static_cast<int64_t>(ids.size());
  std::vector<int32_t> first;

  Hdf5Editor file(path, Hdf5Editor::Mode::kCreate);
  file.array("input_ids", ids, content.storage);
  file.array("offsets", offsets, content.storage);
  if (!content.loss_mask.empty()) {
    const std::vector<uint8_t> mask = concatenated(content.loss_mask);
    first = first_targets<uint8_t>(content.loss_mask, 0);
    num_targets = std::accumulate(mask.begin(), mask.end(), int64_t{0});
    file.array("loss_mask", mask, content.storage);
    hashes += fmt::format("loss_mask={}\n", digest(mask));
  }
  if (!content.labels.empty()) {
    const std::vector<int32_t> labels = concatenated(content.labels);
    first = first_targets<int32_t>(content.labels, -100);
    num_targets = std::count_if(labels.begin(), labels.end(), [](int32_t label) { return label != -100; });
    file.array("labels", labels, content.storage);
    hashes += fmt::format("labels={}\n", digest(labels));
  }
  if (!content.first_target.empty()) first = content.first_target;
  num_targets = content.num_target_tokens.value_or(num_targets);
  if (!first.empty()) {
    file.array("first_target", first, content.storage);
    hashes += fmt::format("first_target={}\n", digest(first));
  }
  file.string("prepare_config", content.prepare_config);
  file.attribute("format", "sft-dist-dataset");
  file.attribute("version", 1);
  file.attribute("vocab_size", content.vocab_size);
  file.attribute("eos_token_id", 2);
  file.attribute("num_tokens", static_cast<int64_t>(ids.size()));
  file.attribute("num_target_tokens", num_targets);
  file.attribute("tokenizer_sha256", content.tokenizer_sha256);
  file.attribute("content_xxh3",
                 base::xxh3_hex(fmt::format(
                     "format=sft-dist-dataset\nversion=1\nvocab_size={}\nbos_token_id=none\n"
                     "eos_token_id=2\npad_token_id=none\nnum_tokens={}\nnum_target_tokens={}\n"
                     "tokenizer_sha256={}\n{}",
                     content.vocab_size, ids.size(), num_targets, content.tokenizer_sha256, hashes)));
}

std::vector<ByteRange> storage_ranges(const std::filesystem::path& path) {
  std::vector<ByteRange> ranges;
  const auto add = [&](haddr_t offset, hsize_t size) {
    ranges.push_back({static_cast<int64_t>(offset), static_cast<int64_t>(offset + size)});
  };
  const hid_t file = checked(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), "open file");
  for (const char* name : {"input_ids", "offsets", "loss_mask", "first_target"}) {
    const hid_t dataset = checked(H5Dopen2(file, name, H5P_DEFAULT), "open dataset");
    if (const haddr_t offset = H5Dget_offset(dataset); offset != HADDR_UNDEF) {
      add(offset, H5Dget_storage_size(dataset));
    } else {
      hsize_t count = 0, size = 0, first = 0;
      haddr_t chunk = 0;
      unsigned filters = 0;
      const hid_t space = checked(H5Dget_space(dataset), "space");
      checked(H5Dget_num_chunks(dataset, space, &count), "chunks");
      for (hsize_t i = 0; i < count; ++i) {
        checked(H5Dget_chunk_info(dataset, space, i, &first, &filters, &chunk, &size), "chunk");
        add(chunk, size);
      }
      H5Sclose(space);
    }
    H5Dclose(dataset);
  }
  H5Fclose(file);
  return ranges;
}

Hdf5Editor::Hdf5Editor(const std::filesystem::path& path, Mode mode, int64_t user_block) {
  const hid_t properties = checked(H5Pcreate(H5P_FILE_CREATE), "file properties");
  if (user_block > 0) checked(H5Pset_userblock(properties, static_cast<hsize_t>(user_block)), "user block");
  file_ = checked(mode == Mode::kCreate ? H5Fcreate(path.c_str(), H5F_ACC_TRUNC, properties, H5P_DEFAULT)
                                        : H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT),
                  "open file");
  H5Pclose(properties);
}

Hdf5Editor::~Hdf5Editor() {
  H5Fclose(file_);
}

void Hdf5Editor::attribute(const std::string& name, int64_t value) {
  write_attribute(file_, name, H5T_STD_I64LE, &value);
}

void Hdf5Editor::attribute(const std::string& name, const std::string& value) {
  const hid_t type = string_type(value.size());
  write_attribute(file_, name, type, value.data());
  H5Tclose(type);
}

void Hdf5Editor::variable_length_attribute(const std::string& name, const std::string& value) {
  const hid_t type = string_type(H5T_VARIABLE);
  const char* text = value.c_str();
  write_attribute(file_, name, type, &text);
  H5Tclose(type);
}

void Hdf5Editor::remove_attribute(const std::string& name) {
  checked(H5Adelete(file_, name.c_str()), "delete");
}

void Hdf5Editor::remove(const std::string& name) {
  if (H5Lexists(file_, name.c_str(), H5P_DEFAULT) > 0)
    checked(H5Ldelete(file_, name.c_str(), H5P_DEFAULT), "unlink");
}

template <typename T>
void Hdf5Editor::array(const std::string& name, const std::vector<T>& values, Storage storage) {
  remove(name);
  const hid_t space = vector_space(values.size());
  const hid_t properties = creation_properties(storage, values.size());
  const hid_t dataset =
      checked(H5Dcreate2(file_, name.c_str(), file_type<T>(), space, H5P_DEFAULT, properties, H5P_DEFAULT),
              "dataset");
  checked(H5Dwrite(dataset, file_type<T>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), "write");
  H5Dclose(dataset);
  H5Pclose(properties);
  H5Sclose(space);
  hash_attribute(name, digest(values));
}
template void Hdf5Editor::array(const std::string&, const std::vector<uint8_t>&, Storage);
template void Hdf5Editor::array(const std::string&, const std::vector<int32_t>&, Storage);
template void Hdf5Editor::array(const std::string&, const std::vector<int64_t>&, Storage);

void Hdf5Editor::string(const std::string& name, const std::string& text) {
  remove(name);
  const hid_t type = string_type(text.size());
  const hid_t space = checked(H5Screate(H5S_SCALAR), "scalar");
  const hid_t dataset =
      checked(H5Dcreate2(file_, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), "dataset");
  checked(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text.data()), "write");
  H5Dclose(dataset);
  H5Sclose(space);
  H5Tclose(type);
  hash_attribute(name, base::xxh3_hex(text));
}

void Hdf5Editor::hash_attribute(const std::string& dataset, const std::string& text) {
  const hid_t object = checked(H5Dopen2(file_, dataset.c_str(), H5P_DEFAULT), "open dataset");
  const hid_t type = string_type(text.size());
  write_attribute(object, "xxh3", type, text.data());
  H5Tclose(type);
  H5Dclose(object);
}

void Hdf5Editor::soft_link(const std::string& name, const std::string& target) {
  remove(name);
  checked(H5Lcreate_soft(target.c_str(), file_, name.c_str(), H5P_DEFAULT, H5P_DEFAULT), "soft link");
}

void Hdf5Editor::external_link(const std::string& name, const std::string& file, const std::string& target) {
  remove(name);
  checked(H5Lcreate_external(file.c_str(), target.c_str(), file_, name.c_str(), H5P_DEFAULT, H5P_DEFAULT),
          "link");
}

namespace {

// A dataset that is only declared.
void declare(hid_t file, const std::string& name, hid_t type, hid_t space, hid_t properties) {
  const hid_t dataset =
      checked(H5Dcreate2(file, name.c_str(), type, space, H5P_DEFAULT, properties, H5P_DEFAULT), "dataset");
  H5Dclose(dataset);
  H5Sclose(space);
  H5Pclose(properties);
}

}  // namespace

void Hdf5Editor::external_storage(const std::string& name, const std::string& file, int64_t num_elements) {
  remove(name);
  const hid_t properties = checked(H5Pcreate(H5P_DATASET_CREATE), "properties");
  checked(H5Pset_external(properties, file.c_str(), 0, H5F_UNLIMITED), "external");
  declare(file_, name, H5T_STD_I32LE, vector_space(static_cast<std::size_t>(num_elements)), properties);
  hash_attribute(name, std::string(32, '0'));
}

void Hdf5Editor::virtual_array(const std::string& name, const std::string& file, int64_t num_elements) {
  remove(name);
  const hid_t properties = checked(H5Pcreate(H5P_DATASET_CREATE), "properties");
  const hid_t space = vector_space(static_cast<std::size_t>(num_elements));
  checked(H5Pset_virtual(properties, space, file.c_str(), "input_ids", space), "virtual");
  declare(file_, name, H5T_STD_I32LE, space, properties);
  hash_attribute(name, std::string(32, '0'));
}

void Hdf5Editor::matrix(const std::string& name, int64_t rows, int64_t columns) {
  remove(name);
  const hsize_t extent[] = {static_cast<hsize_t>(rows), static_cast<hsize_t>(columns)};
  declare(file_, name, H5T_STD_I32LE, checked(H5Screate_simple(2, extent, nullptr), "space"),
          checked(H5Pcreate(H5P_DATASET_CREATE), "properties"));
  hash_attribute(name, std::string(32, '0'));
}

void Hdf5Editor::big_endian(const std::string& name, int64_t num_elements) {
  remove(name);
  declare(file_, name, H5T_STD_I32BE, vector_space(static_cast<std::size_t>(num_elements)),
          checked(H5Pcreate(H5P_DATASET_CREATE), "properties"));
  hash_attribute(name, std::string(32, '0'));
}

void Hdf5Editor::group(const std::string& name) {
  remove(name);
  const hid_t group =
      checked(H5Gcreate2(file_, name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), "group");
  const hid_t type = string_type(32);
  write_attribute(group, "xxh3", type, std::string(32, '0').data());
  H5Tclose(type);
  H5Gclose(group);
}

void Hdf5Editor::unwritten_chunks(const std::string& name, int64_t num_elements, int64_t chunk_elements) {
  remove(name);
  const hid_t properties = checked(H5Pcreate(H5P_DATASET_CREATE), "properties");
  const hsize_t chunk = static_cast<hsize_t>(chunk_elements);
  checked(H5Pset_chunk(properties, 1, &chunk), "chunk");
  declare(file_, name, H5T_STD_I32LE, vector_space(static_cast<std::size_t>(num_elements)), properties);
  hash_attribute(name, std::string(32, '0'));
}

void Hdf5Editor::other_filter(const std::string& name, int64_t num_elements) {
  remove(name);
  const hid_t properties = checked(H5Pcreate(H5P_DATASET_CREATE), "properties");
  const hsize_t chunk = 4;
  checked(H5Pset_chunk(properties, 1, &chunk), "chunk");
  checked(H5Pset_nbit(properties), "filter");
  declare(file_, name, H5T_STD_I32LE, vector_space(static_cast<std::size_t>(num_elements)), properties);
  hash_attribute(name, std::string(32, '0'));
}

}  // namespace sft::test
