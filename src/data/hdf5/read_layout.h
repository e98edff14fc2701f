#pragma once

#include "data/file_layout.h"
#include "sft/base/file.h"

namespace sft::data {

// Everything the HDF5 library has to say about a data set file; passes check_layout(). Calls the library on a
// file that is not trusted: only in a process that may be lost. Error kInvalidData.
FileLayout read_layout(const base::File& bytes);

}  // namespace sft::data
