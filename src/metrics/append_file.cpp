#include "metrics/append_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "sft/base/error.h"
#include "sft/base/log.h"

namespace sft::metrics {
namespace {

constexpr off_t kLongestLine = 1 << 20;

}  // namespace

AppendFile::AppendFile(const std::filesystem::path& path, Kind kind) : path_(path) {
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) {
    base::fail(base::ExitCode::kStorage, "cannot open {} for writing: {}", path.string(),
               std::strerror(errno));
  }
  if (kind == Kind::kLines) remove_unfinished_line();
}

AppendFile::~AppendFile() {
  ::close(descriptor_);
}

void AppendFile::append(std::string_view bytes) {
  ssize_t count = -1;
  do {
    count = ::write(descriptor_, bytes.data(), bytes.size());
  } while (count < 0 && errno == EINTR);
  if (count == static_cast<ssize_t>(bytes.size())) return;
  warn_once(count < 0 ? errno : ENOSPC);
  if (count <= 0) return;
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0 || ::ftruncate(descriptor_, status.st_size - count) != 0)
    warn_once(errno);
}

void AppendFile::sync() {
  // EINVAL: not a file that can be synced, a pipe for example.
  if (::fsync(descriptor_) != 0 && errno != EINVAL) warn_once(errno);
}

void AppendFile::remove_unfinished_line() {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0) return;
  const off_t begin = std::max<off_t>(0, status.st_size - kLongestLine);
  std::string tail(static_cast<std::size_t>(status.st_size - begin), '\0');
  if (::pread(descriptor_, tail.data(), tail.size(), begin) != static_cast<ssize_t>(tail.size())) return;
  const std::size_t newline = tail.rfind('\n');
  if (newline == std::string::npos && begin > 0) return;  // not one of our files
  const off_t end = newline == std::string::npos ? 0 : begin + static_cast<off_t>(newline) + 1;
  if (end != status.st_size && ::ftruncate(descriptor_, end) != 0) warn_once(errno);
}

void AppendFile::warn_once(int error_number) {
  if (warned_) return;
  warned_ = true;
  log::warning("cannot write {}: {}; training goes on, and entries may be missing there", path_.string(),
               std::strerror(error_number));
}

}  // namespace sft::metrics
