// HDF5 files that are not trusted, read-only: the only place that calls the HDF5 library.
//
// Every failure is an Error kInvalidData that names the file and the object. Only what docs/data-format.md
// allows is opened: hard links, fixed-size little-endian types, contiguous or chunked storage inside this
// file, known filters. All calls are thread-safe; the library's are serialised by one mutex, reads of
// contiguous arrays do not need it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "sft/base/file.h"

namespace sft::data {

// One-dimensional, of T in {uint8_t, int32_t, int64_t}. Reads nothing before read() is called. Outlives its
// file.
template <typename T>
class Hdf5Array {
 public:
  Hdf5Array(Hdf5Array&&) noexcept;
  Hdf5Array& operator=(Hdf5Array&&) noexcept;
  ~Hdf5Array();

  int64_t size() const { return size_; }
  const std::string& name() const { return name_; }
  void read(int64_t first, std::span<T> out) const;  // elements [first, first + out.size()), which must exist

 private:
  friend class Hdf5File;
  struct Chunked;
  Hdf5Array();

  std::string name_;
  int64_t size_ = 0;
  std::shared_ptr<const base::File> file_;
  int64_t file_offset_ = 0;           // of a contiguous array, which is read without the library
  std::unique_ptr<Chunked> chunked_;  // null: contiguous
};

class Hdf5File {
 public:
  explicit Hdf5File(const std::filesystem::path& path);
  ~Hdf5File();
  Hdf5File(const Hdf5File&) = delete;
  Hdf5File& operator=(const Hdf5File&) = delete;

  const std::filesystem::path& path() const;
  // Whether the root group has a link of that name, of whatever kind.
  bool has(const std::string& name) const;

  // Scalar attributes; `object` is a dataset or "/". Strings are at most 4096 bytes.
  bool has_attribute(const std::string& object, const std::string& name) const;
  int64_t int_attribute(const std::string& object, const std::string& name) const;
  std::string string_attribute(const std::string& object, const std::string& name) const;

  template <typename T>
  Hdf5Array<T> array(const std::string& name) const;
  // A contiguous scalar dataset of a fixed-length string; trailing zeros are left out.
  std::string string(const std::string& name, int64_t max_bytes) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sft::data
