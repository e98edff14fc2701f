// An HDF5 file that is not trusted, read-only: with driver.h the only place that calls the HDF5 library.
//
// Every failure is an Error kInvalidData that names the file and the object. Only what docs/data-format.md
// allows is looked at: hard links, fixed-size little-endian types, contiguous or chunked storage inside this
// file, known filters. The elements of arrays are not read, only where they lie. Damaged files can crash the
// library or keep it busy for ever: it is called in a disposable process (inspector.h). Not thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "data/file_layout.h"
#include "sft/base/file.h"

namespace sft::data {

class Hdf5File {
 public:
  explicit Hdf5File(const base::File& bytes);
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

  // A one-dimensional dataset of T in {uint8_t, int32_t, int64_t}; xxh3 is left empty.
  template <typename T>
  ArrayLayout array(const std::string& name) const;
  // A contiguous scalar dataset of a fixed-length string; trailing zeros are left out.
  std::string string(const std::string& name, int64_t max_bytes) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sft::data
