// Where a model's files are: a folder, or the local Hugging Face cache
// (models--<org>--<name>/refs/main names a commit; snapshots/<commit>/ holds the files).
#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "sft/base/error.h"
#include "sft/base/file.h"
#include "sft/model/spec.h"

namespace sft::model {
namespace {

namespace fs = std::filesystem;

const char* variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : nullptr;
}

// ~ in front, $NAME and ${NAME}, as huggingface_hub (Python's expanduser and expandvars) reads them: what is unknown stays.
std::string expanded(std::string path) {
  constexpr std::string_view kWord = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
  const char* home = variable("HOME");
  if (home != nullptr && (path == "~" || path.starts_with("~/"))) path.replace(0, 1, home);
  for (auto at = path.find('$'); at != std::string::npos; at = path.find('$', at)) {
    const bool braced = path.compare(at + 1, 1, "{") == 0;
    const auto begin = at + (braced ? 2U : 1U);
    const auto end = braced ? path.find('}', begin) : std::min(path.find_first_not_of(kWord, begin), path.size());
    const char* value = end == std::string::npos ? nullptr : std::getenv(path.substr(begin, end - begin).c_str());
    if (value == nullptr) {
      ++at;
      continue;
    }
    path.replace(at, end + (braced ? 1U : 0U) - at, value);
    at += std::string_view(value).size();  // which is not expanded again
  }
  return path;
}

fs::path hub_cache() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (const char* path = variable(name)) return expanded(path);
  }
  if (const char* path = variable("HF_HOME")) return fs::path(expanded(path)) / "hub";
  if (const char* path = variable("XDG_CACHE_HOME")) return fs::path(expanded(path)) / "huggingface" / "hub";
  const char* home = variable("HOME");
  return fs::path(home != nullptr ? home : ".") / ".cache" / "huggingface" / "hub";
}

// "org/name" or "name" in the characters the hub allows; anything else is a path.
bool is_repository_id(const std::string& text) {
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/";
  const auto slash = text.find('/');
  return !text.empty() && text.front() != '.' && text.front() != '/' && text.back() != '/' &&
         text.find_first_not_of(kAllowed) == std::string::npos && text.find("..") == std::string::npos &&
         (slash == std::string::npos || text.find('/', slash + 1) == std::string::npos);
}

fs::path repository_folder(const std::string& id) {
  std::string name = id;
  if (const auto slash = name.find('/'); slash != std::string::npos) name.replace(slash, 1, "--");
  return hub_cache() / ("models--" + name);
}

std::string main_commit(const fs::path& repository) {
  std::string commit = base::read_text(repository / "refs" / "main", 4096);
  while (!commit.empty() && (commit.back() == '\n' || commit.back() == '\r' || commit.back() == ' '))
    commit.pop_back();
  constexpr std::string_view kHex = "0123456789abcdef";
  if (commit.empty() || commit.find_first_not_of(kHex) != std::string::npos) {
    base::fail(base::ExitCode::kInvalidData,
               "{}: not a commit id; remove the folder and download the model again",
               (repository / "refs" / "main").string());
  }
  return commit;
}

bool lies_in(const fs::path& file, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), file.begin(), file.end()).first == folder.end();
}

// Where links in a model folder may lead: its own files, and those of the cache, where
// snapshots/<commit>/<name> is a link to blobs/<hash>; in a folder that was downloaded to a place of its own,
// files may be such links too.
bool may_lead_to(const fs::path& model_dir, const fs::path& target) {
  const fs::path folder = fs::canonical(model_dir);
  if (lies_in(target, folder)) return true;
  const bool is_snapshot = folder.parent_path().filename() == "snapshots";
  if (is_snapshot && lies_in(target, folder.parent_path().parent_path() / "blobs")) return true;
  std::error_code none;
  const fs::path cache = fs::canonical(hub_cache(), none);
  return !none && lies_in(target, cache) && target.parent_path().filename() == "blobs";
}

void check_link(const fs::path& model_dir, const fs::path& link) {
  std::error_code error;
  const fs::path target = fs::canonical(link, error);
  if (error) base::fail(base::ExitCode::kInvalidData, "{} is a link to nowhere", link.string());
  if (may_lead_to(model_dir, target)) return;
  base::fail(base::ExitCode::kInvalidData,
             "{} is a link to {}, outside the model's folder and the Hugging Face cache: it is not followed; "
             "put the file itself there",
             link.string(), target.string());
}

}  // namespace

void check_links(const fs::path& model_dir) {
  constexpr std::array kExtensions = {".json", ".safetensors", ".txt", ".model", ".jinja"};
  const fs::path templates = model_dir / kNamedTemplatesFolder;
  if (fs::is_symlink(templates)) check_link(model_dir, templates);
  for (const fs::path& folder : {model_dir, templates}) {
    if (!fs::is_directory(folder)) continue;  // who reads the model's says so
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
      const bool is_read = std::ranges::find(kExtensions, entry.path().extension()) != kExtensions.end();
      if (is_read && entry.is_symlink()) check_link(model_dir, entry.path());
    }
  }
}

namespace {

// What an option names: a folder, or a repository in the cache.
struct Wanted {
  std::string_view option, name;
  std::string_view file;  // must be there; empty: any files do

  bool is_whole(const fs::path& folder) const { return file.empty() || fs::exists(folder / file); }
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> why, Args&&... args) const {
    base::fail(base::ExitCode::kInvalidData, "{} = {}: {}", option, name, fmt::format(why, std::forward<Args>(args)...));
  }
};

fs::path resolve(const Wanted& wanted) {
  const std::string name(wanted.name);
  fs::path found;
  if (fs::is_directory(name)) {
    found = name;
    if (!wanted.is_whole(found)) wanted.refuse("the folder has no {}", wanted.file);
  } else if (is_repository_id(name) && fs::exists(repository_folder(name) / "refs" / "main")) {
    found = repository_folder(name) / "snapshots" / main_commit(repository_folder(name));
    if (!fs::exists(found) || !wanted.is_whole(found)) {
      wanted.refuse("{} has no {} (an unfinished download?); run sft-prepare to fetch it", found.string(),
                    wanted.file.empty() ? "files" : wanted.file);
    }
  } else {
    wanted.refuse("neither a folder{}{} nor in the Hugging Face cache ({}); give a folder, or run sft-prepare to fetch it",
                  wanted.file.empty() ? "" : " with ", wanted.file, hub_cache().string());
  }
  check_links(found);
  return found;
}

}  // namespace

fs::path resolve_model_dir(const std::string& model_name_or_path) {
  return resolve({.option = "model_name_or_path", .name = model_name_or_path, .file = "config.json"});
}

fs::path resolve_tokenizer_dir(const std::string& tokenizer_name_or_path) {
  return resolve({.option = "tokenizer_name_or_path", .name = tokenizer_name_or_path, .file = {}});
}

}  // namespace sft::model
