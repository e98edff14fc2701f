#include "sft/config/path_list.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <set>

#include "path_list_rules.h"
#include "paths.h"
#include "words.h"

namespace sft::config {
namespace {

bool exists(const std::string& path) {
  std::error_code not_there;
  return std::filesystem::exists(expand_home(path), not_there);
}

// Text that is a file as it stands is one entry, whatever is in its name.
std::vector<std::string> entries(const std::string& text) {
  if (text.find(',') == std::string::npos || exists(text)) return {trim(text)};
  std::vector<std::string> result;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    result.push_back(trim(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return result;
}

bool is_name(const std::string& text) {
  const auto is_part = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; };
  return !text.empty() && std::all_of(text.begin(), text.end(), is_part);
}

}  // namespace

std::vector<ListedPath> named_paths(const std::string& text) {
  std::vector<ListedPath> result;
  if (text.empty()) return result;
  for (const std::string& entry : entries(text)) {
    const auto equals = entry.find('=');
    const std::string name = equals == std::string::npos ? "" : trim(entry.substr(0, equals));
    if (is_name(name)) {
      result.push_back({name, expand_home(trim(entry.substr(equals + 1))), {}});
    } else {
      result.push_back({"", expand_home(entry), {}});
    }
  }
  return result;
}

std::vector<ListedPath> mixture_paths(const std::string& text) {
  std::vector<ListedPath> result;
  if (text.empty()) return result;
  for (const std::string& entry : entries(text)) {
    const auto colon = exists(entry) ? std::string::npos : entry.rfind(':');
    const auto fraction =
        colon == std::string::npos ? std::nullopt : parse_number<double>(trim(entry.substr(colon + 1)));
    if (fraction) {
      result.push_back({"", expand_home(trim(entry.substr(0, colon))), fraction});
    } else {
      result.push_back({"", expand_home(entry), {}});
    }
  }
  return result;
}

bool are_named_paths(const std::string& text) {
  const std::vector<ListedPath> paths = named_paths(text);
  std::set<std::string> names;
  for (const ListedPath& entry : paths) {
    if (entry.path.empty() || (paths.size() > 1 && entry.name.empty()) || !names.insert(entry.name).second)
      return false;
  }
  return true;
}

bool is_mixture(const std::string& text) {
  const std::vector<ListedPath> paths = mixture_paths(text);
  return std::all_of(paths.begin(), paths.end(), [&](const ListedPath& entry) {
    const bool fits = entry.fraction.has_value() == paths.front().fraction.has_value();
    return !entry.path.empty() && fits && entry.fraction.value_or(1) > 0;
  });
}

}  // namespace sft::config
