#include "paths.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

#include "sft/config/path_list.h"

namespace sft::config {
namespace {

std::string absolute(const std::string& path) {
  return std::filesystem::absolute(path).lexically_normal().string();
}

bool is_written_as_path(const std::string& value) {
  return value.front() == '/' || value == "." || value == ".." || value.starts_with("./") ||
         value.starts_with("../");
}

std::string absolute_entries(const std::vector<ListedPath>& entries) {
  std::string text;
  for (const ListedPath& entry : entries) {
    if (!text.empty()) text += ", ";
    if (!entry.name.empty()) text += entry.name + "=";
    text += absolute(entry.path);
    if (entry.fraction) text += fmt::format(":{}", *entry.fraction);
  }
  return text;
}

}  // namespace

std::string expand_home(const std::string& path) {
  const char* home = std::getenv("HOME");
  const bool is_in_home = path == "~" || path.starts_with("~/");
  return is_in_home && home ? home + path.substr(1) : path;
}

std::string absolute_path(PathKind kind, const std::string& value) {
  if (value.empty() || kind == PathKind::kNone || (kind == PathKind::kResume && value == "true"))
    return value;
  std::error_code not_there;
  if (kind == PathKind::kFolderOrName && !is_written_as_path(value) &&
      !std::filesystem::exists(value, not_there)) {
    return value;
  }
  if (kind == PathKind::kNamed) return absolute_entries(named_paths(value));
  if (kind == PathKind::kMixture) return absolute_entries(mixture_paths(value));
  if (kind != PathKind::kFunction) return absolute(value);
  const auto colon = value.rfind(':');
  return absolute(value.substr(0, colon)) + value.substr(colon);
}

}  // namespace sft::config
