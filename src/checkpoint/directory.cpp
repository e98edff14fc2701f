#include "checkpoint/directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <optional>
#include <random>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include "sft/base/error.h"
#include "sft/base/file.h"
#include "sft/base/log.h"

namespace sft::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::ExitCode;
using base::fail;

constexpr std::string_view kCheckpointPrefix = "checkpoint-";
constexpr std::string_view kTrashPrefix = ".trash-";
constexpr std::string_view kReplacedPrefix = ".replaced-";  // the old one, until the new one is in its place
constexpr std::size_t kNonceLength = 16;
constexpr std::string_view kTemporaryMark = ".tmp-";

bool is_real_folder(const fs::path& path) {
  std::error_code error;
  return fs::symlink_status(path, error).type() == fs::file_type::directory;
}

void rename_or_fail(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) base::fail_file(ExitCode::kStorage, "rename", from, error.message());
}

fs::path hidden_path(std::string_view prefix, const fs::path& path) {
  return path.parent_path() / fmt::format("{}{}-{}", prefix, make_nonce(), path.filename().string());
}

void delete_or_warn(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) log::warning("cannot delete {}: {}", path.string(), error.message());
}

bool exchange(const fs::path& a, const fs::path& b) {
  return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
}

std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kCheckpointPrefix)) return std::nullopt;
  const char* begin = name.data() + kCheckpointPrefix.size();
  const char* end = name.data() + name.size();
  int64_t step = 0;
  const auto [last, error] = std::from_chars(begin, end, step);
  if (error != std::errc() || last != end || step < 0 || (*begin == '0' && end - begin > 1))
    return std::nullopt;
  return step;
}

// .replaced-<nonce>-checkpoint-<step>: a run died before the new one had its name, or after.
void put_back(const fs::path& path) {
  const std::string name = path.filename().string();
  const std::size_t prefix = kReplacedPrefix.size() + kNonceLength + 1;
  const std::string original = name.size() > prefix ? name.substr(prefix) : "";
  const fs::path target = path.parent_path() / original;
  if (!step_of(original) || fs::exists(fs::symlink_status(target))) return delete_or_warn(path);
  rename_or_fail(path, target);
  base::sync_directory(target.parent_path());
}

}  // namespace

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

std::string make_nonce() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}", random(), random());
}

fs::path checkpoint_path(const fs::path& output_dir, int64_t step) {
  return output_dir / fmt::format("{}{}", kCheckpointPrefix, step);
}

fs::path temporary_path(const fs::path& output_dir, const std::string& name, const std::string& nonce) {
  return output_dir / fmt::format("{}{}{}", name, kTemporaryMark, nonce);
}

std::map<int64_t, fs::path> list_checkpoints(const fs::path& output_dir) {
  std::map<int64_t, fs::path> result;
  for (const fs::directory_entry& entry : fs::directory_iterator(output_dir)) {
    const std::optional<int64_t> step = step_of(entry.path().filename().string());
    if (step && entry.is_directory()) result[*step] = entry.path();
  }
  return result;
}

bool holds_results(const fs::path& output_dir) {
  return !list_checkpoints(output_dir).empty() || fs::exists(output_dir / "model.safetensors") ||
         fs::exists(output_dir / "model.safetensors.index.json") ||
         fs::exists(output_dir / "adapter_model.safetensors");
}

void Trash::discard(const fs::path& path) {
  const fs::path hidden = hidden_path(kTrashPrefix, path);
  rename_or_fail(path, hidden);
  wait();
  try {
    deleting_ = std::async(std::launch::async, [hidden] { delete_or_warn(hidden); });
  } catch (const std::system_error&) {  // no more threads
    delete_or_warn(hidden);
  }
}

void Trash::wait() {
  if (deleting_.valid()) deleting_.get();
}

fs::path set_aside(const fs::path& path) {
  fs::path aside = path.parent_path() / ("abandoned-" + path.filename().string());
  if (fs::exists(fs::symlink_status(aside))) aside += "." + make_nonce();
  rename_or_fail(path, aside);
  return aside;
}

void sweep(const fs::path& output_dir) {
  std::vector<fs::path> leftovers, replaced;
  for (const fs::directory_entry& entry : fs::directory_iterator(output_dir)) {
    const std::string name = entry.path().filename().string();
    const bool temporary = (name.starts_with(kCheckpointPrefix) || name.starts_with('.')) &&
                           name.find(kTemporaryMark) != std::string::npos;
    if (name.starts_with(kReplacedPrefix)) replaced.push_back(entry.path());
    if (temporary || name.starts_with(kTrashPrefix)) leftovers.push_back(entry.path());
  }
  for (const fs::path& path : replaced) put_back(path);
  for (const fs::path& path : leftovers) delete_or_warn(path);
}

void put_in_place(const fs::path& temporary, const fs::path& target) {
  fs::path old;  // where what was there before has gone
  const bool replaces = fs::exists(fs::symlink_status(target));
  // One step where the file system can exchange two names, so that at no moment neither is there; two steps
  // elsewhere.
  if (replaces && exchange(temporary, target)) {
    old = temporary;
  } else {
    if (replaces) {
      old = hidden_path(kReplacedPrefix, target);
      rename_or_fail(target, old);
    }
    try {
      rename_or_fail(temporary, target);
    } catch (const base::Error&) {
      if (replaces) rename_or_fail(old, target);
      throw;
    }
  }
  try {
    base::sync_directory(target.parent_path());
  } catch (const base::Error&) {
    if (old == temporary) {
      exchange(temporary, target);
    } else {
      rename_or_fail(target, temporary);
      if (replaces) rename_or_fail(old, target);
    }
    throw;
  }
  if (!replaces) return;
  if (old == temporary) return delete_or_warn(old);
  const fs::path trash = hidden_path(kTrashPrefix, target);  // nothing that is half deleted may be put back
  std::error_code error;
  fs::rename(old, trash, error);
  delete_or_warn(error ? old : trash);
}

void apply_limit(const fs::path& output_dir, int64_t saved_step, int64_t best_step, int64_t limit,
                 const std::set<int64_t>& damaged, Trash& trash) {
  try {
    std::map<int64_t, fs::path> checkpoints = list_checkpoints(output_dir);
    std::erase_if(checkpoints, [](const auto& item) { return !is_real_folder(item.second); });
    const bool spares_best = best_step < saved_step && checkpoints.contains(best_step);
    int64_t room = limit - 1 - (spares_best ? 1 : 0);  // for others than these two
    for (auto item = checkpoints.rbegin(); item != checkpoints.rend(); ++item) {
      const auto& [step, path] = *item;
      if (step == saved_step || (spares_best && step == best_step)) continue;
      if (step < saved_step && !damaged.contains(step) && room-- > 0) continue;
      trash.discard(path);
    }
  } catch (const std::exception& error) {
    log::warning("save_total_limit could not be applied in {}: {}", output_dir.string(), error.what());
  }
}

Lease::Lease(const fs::path& output_dir, std::chrono::milliseconds patience) : output_dir_(output_dir) {
  const fs::path path = output_dir / ".lease";
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail(ExitCode::kStorage, "cannot open {}: {}", path.string(), std::strerror(errno));
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    if (error == EINTR) continue;
    if (error == EWOULDBLOCK && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      continue;
    }
    std::array<char, 512> holder{};
    const ssize_t length = ::pread(descriptor_, holder.data(), holder.size() - 1, 0);
    ::close(descriptor_);
    if (error != EWOULDBLOCK)
      fail(ExitCode::kStorage, "cannot lock {}: {}", path.string(), std::strerror(error));
    fail(ExitCode::kStorage, "{} is in use by another run ({}): end that run or choose another output_dir",
         output_dir.string(), length > 0 ? log::printable(holder.data()) : "unknown");
  }
  const std::string text = fmt::format("process {} on host {}", ::getpid(), host_name());
  if (::ftruncate(descriptor_, 0) != 0 ||
      ::pwrite(descriptor_, text.data(), text.size(), 0) != std::ssize(text)) {
    const int error = errno;
    ::close(descriptor_);
    fail(ExitCode::kStorage, "cannot write {}: {}", path.string(), std::strerror(error));
  }
  folder_ = ::open(output_dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
}

void Lease::check_folder() const {
  struct stat now {
  }, then{};
  if (::stat(output_dir_.c_str(), &now) == 0 && ::fstat(folder_, &then) == 0 && now.st_dev == then.st_dev &&
      now.st_ino == then.st_ino)
    return;
  throw base::FileError(
      ExitCode::kStorage,
      fmt::format(
          "{} is no longer the folder in which the run began: it was deleted, or its file system is not "
          "mounted any more",
          output_dir_.string()),
      output_dir_, "the folder was deleted or unmounted");
}

Lease::~Lease() {
  // A reader that meets a lock must not find the name of a run that is over.
  [[maybe_unused]] const int ignored = ::ftruncate(descriptor_, 0);
  ::close(descriptor_);
  ::close(folder_);
}

}  // namespace sft::checkpoint
