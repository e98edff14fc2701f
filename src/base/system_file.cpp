#include "sft/base/system_file.h"

#include <fstream>
#include <iterator>

namespace sft::base {

std::string read_system_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace sft::base
