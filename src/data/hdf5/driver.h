// How the HDF5 library gets at bytes: of one open file, and of no other.
//
// A file that it wants to open besides (for an external link, a virtual data set) is refused.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <optional>

#include "sft/base/file.h"

namespace sft::data {

struct FileRange {
  int64_t offset = 0, bytes = 0;
};

// What the library's file is. Outlives it.
struct DriverFile {
  const base::File& bytes;
  bool is_open = false;
  // While set, array data is not read: where it lies is noted instead.
  std::optional<FileRange>* noted = nullptr;
};

// The name under which H5Fopen is to open it.
inline constexpr const char* kDriverFileName = "data-set";

// Access properties for H5Fopen. Closed by the caller.
hid_t driver_properties(DriverFile& file);

}  // namespace sft::data
