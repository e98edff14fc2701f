// Options that list files: several evaluation sets, the parts of a mixture.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace sft::config {

struct ListedPath {
  std::string name;  // of an evaluation set; empty: it has none
  std::string path;
  std::optional<double> fraction;  // of a part of a mixture
};

// "path", or "name=path, name=path, ...". Text that is not so gives entries as they stand; validate() refuses
// it.
std::vector<ListedPath> named_paths(const std::string& text);

// "path", or "path:fraction, path:fraction, ..."; fractions may be left out.
std::vector<ListedPath> mixture_paths(const std::string& text);

}  // namespace sft::config
