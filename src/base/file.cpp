#include "sft/base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace sft::base {
namespace {

[[noreturn]] void fail_errno(ExitCode code, const char* action, const std::filesystem::path& path) {
  fail_file(code, action, path, std::strerror(errno));
}

int open_retrying(const char* path, int flags, mode_t mode) {
  int descriptor = -1;
  do {
    descriptor = ::open(path, flags, mode);
  } while (descriptor < 0 && errno == EINTR);
  return descriptor;
}

}  // namespace

void fail_file(ExitCode code, const char* action, const std::filesystem::path& path,
               const std::string& reason) {
  throw FileError(code, fmt::format("cannot {} {}: {}", action, path.string(), reason), path, reason);
}

File::File(const std::filesystem::path& path, Mode mode) : path_(path) {
  // O_NONBLOCK: a pipe with no writer is refused below instead of being waited for.
  const int flags = mode == Mode::kRead     ? O_RDONLY | O_NONBLOCK
                    : mode == Mode::kCreate ? O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW
                                            : O_RDWR | O_NOFOLLOW;
  descriptor_ = open_retrying(path.c_str(), flags | O_CLOEXEC, 0666);
  if (descriptor_ < 0) {
    const bool absent = mode == Mode::kRead && (errno == ENOENT || errno == ENOTDIR);
    fail_errno(absent ? ExitCode::kInvalidData : ExitCode::kStorage, mode == Mode::kCreate ? "create" : "open", path);
  }
  require_regular_file();
}

File::File(const std::filesystem::path& path, int descriptor) : path_(path), descriptor_(descriptor) {
  require_regular_file();
}

void File::require_regular_file() {
  struct stat status {};
  if (::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode)) return;
  ::close(std::exchange(descriptor_, -1));
  fail(ExitCode::kInvalidData, "{} is not a regular file", path_.string());
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    if (descriptor_ >= 0) ::close(descriptor_);
    path_ = std::move(other.path_);
    descriptor_ = std::exchange(other.descriptor_, -1);
  }
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

int64_t File::size() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail_errno(ExitCode::kStorage, "inspect", path_);
  return status.st_size;
}

void File::read_at(int64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t count = ::pread(descriptor_, out.data(), out.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_errno(ExitCode::kStorage, "read", path_);
    if (count == 0) fail(ExitCode::kInvalidData, "{} ends at byte {}: it is truncated", path_.string(), offset);
    offset += count;
    out = out.subspan(static_cast<std::size_t>(count));
  }
}

void File::write_at(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(descriptor_, bytes.data(), bytes.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_errno(ExitCode::kStorage, "write", path_);
    if (count == 0) fail_file(ExitCode::kStorage, "write", path_, "nothing was taken");
    offset += count;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void File::resize(int64_t size) {
  if (::ftruncate(descriptor_, size) != 0) fail_errno(ExitCode::kStorage, "resize", path_);
}

void File::begin_write_out([[maybe_unused]] int64_t offset, [[maybe_unused]] int64_t size) {
#if defined(SYNC_FILE_RANGE_WRITE)
  ::sync_file_range(descriptor_, offset, size, SYNC_FILE_RANGE_WRITE);  // some file systems know no such thing
#endif
}

void File::sync() {
  if (::fsync(descriptor_) != 0) fail_errno(ExitCode::kStorage, "sync", path_);
}

void File::close() {
  const int descriptor = std::exchange(descriptor_, -1);
  if (descriptor >= 0 && ::close(descriptor) != 0) fail_errno(ExitCode::kStorage, "close", path_);
}

std::string read_text(const std::filesystem::path& path, int64_t limit) {
  const File file(path, File::Mode::kRead);
  const int64_t size = file.size();
  if (size > limit) {
    fail(ExitCode::kInvalidData, "{} has {} bytes, more than the {} allowed", path.string(), size, limit);
  }
  std::string text(static_cast<std::size_t>(size), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void write_text_atomically(const std::filesystem::path& path, std::string_view text) {
  std::filesystem::path temporary = path;
  temporary += fmt::format(".tmp-{}", ::getpid());
  std::error_code ignored;
  std::filesystem::remove(temporary, ignored);
  try {
    File file(temporary, File::Mode::kCreate);
    file.write_at(0, std::as_bytes(std::span(text)));
    file.sync();
    file.close();
    if (::rename(temporary.c_str(), path.c_str()) != 0) fail_errno(ExitCode::kStorage, "replace", path);
  } catch (...) {
    std::filesystem::remove(temporary, ignored);
    throw;
  }
  sync_directory(path.has_parent_path() ? path.parent_path() : ".");
}

void sync_directory(const std::filesystem::path& path) {
  const int descriptor = open_retrying(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (descriptor < 0) fail_errno(ExitCode::kStorage, "open", path);
  const int result = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  errno = error;
  // Some network file systems refuse fsync on a folder; the data itself has been synced.
  if (result != 0 && error != EINVAL && error != ENOTSUP) fail_errno(ExitCode::kStorage, "sync", path);
}

int64_t free_bytes(const std::filesystem::path& path) {
  struct statvfs status {};
  if (::statvfs(path.c_str(), &status) != 0) fail_errno(ExitCode::kStorage, "inspect", path);
  return static_cast<int64_t>(status.f_bavail) * static_cast<int64_t>(status.f_frsize);
}

}  // namespace sft::base
