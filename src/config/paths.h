// Paths in options.
#pragma once

#include <string>

#include "option_table.h"

namespace sft::config {

// "~/x" with the home folder, as transformers does for output_dir; other text as it is.
std::string expand_home(const std::string& path);

// The value independent of the working directory. Repository ids and empty text stay as they are.
std::string absolute_path(PathKind kind, const std::string& value);

}  // namespace sft::config
