// LD_PRELOAD library: every write, sync, resize and rename of a path that begins with SFT_IO_ROOT, every
// making of a file or folder there and every close of a file that was written gets a number, counted from 0,
// and a line "call path" in the file SFT_IO_TRACE. With SFT_IO_FAIL=<number>:<errno> that call fails; with
// <number>+:<errno> the same call on the same path later too; with always:<errno> all do; with <number>:kill
// the process dies there; with <number>:short a write does half. With SFT_IO_RANK only calls of that rank
// count (as mpirun numbers them). While the file SFT_IO_HOLD exists, calls wait, but for those that make a
// folder, by which a save is seen to have begun. With SFT_IO_NO_EXCHANGE
// names cannot be exchanged, as on network file systems.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>

namespace {

template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

bool counts(const char* path) {
  static const char* const root = std::getenv("SFT_IO_ROOT");
  static const char* const rank = std::getenv("SFT_IO_RANK");
  static const char* const my_rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (rank && (!my_rank || std::strcmp(rank, my_rank) != 0)) return false;
  return root && std::strncmp(path, root, std::strlen(root)) == 0;
}

void trace(const char* call, const char* path) {
  const char* file = std::getenv("SFT_IO_TRACE");
  if (!file) return;
  char line[4200];
  const int length = std::snprintf(line, sizeof line, "%s %s\n", call, path);
  const int descriptor = next<int(const char*, int, ...)>("open")(file, O_WRONLY | O_CREAT | O_APPEND, 0644);
  [[maybe_unused]] const ssize_t written = ::write(descriptor, line, static_cast<size_t>(length));
  next<int(int)>("close")(descriptor);
}

// What SFT_IO_FAIL says of this call: the text after the colon, or null.
const char* verdict(long number, const std::string& call_and_path) {
  const char* fail = std::getenv("SFT_IO_FAIL");
  if (!fail) return nullptr;
  const char* colon = std::strchr(fail, ':');
  if (std::strncmp(fail, "always", 6) == 0) return colon + 1;
  static std::mutex mutex;
  static std::string chosen;
  const std::lock_guard lock(mutex);
  if (std::strtol(fail, nullptr, 10) == number) {
    if (colon[-1] == '+') chosen = call_and_path;
    return colon + 1;
  }
  return chosen == call_and_path ? colon + 1 : nullptr;
}

thread_local bool is_short = false;

// False: the call is to fail, errno is set.
bool allow(const char* call, const char* path) {
  static std::atomic<long> count{0};
  if (!counts(path)) return true;
  const long number = count++;
  trace(call, path);
  const char* hold = std::getenv("SFT_IO_HOLD");
  if (std::strcmp(call, "mkdir") == 0) hold = nullptr;
  while (hold && ::access(hold, F_OK) == 0) ::usleep(2000);
  const char* what = verdict(number, std::string(call) + " " + path);
  if (!what) return true;
  if (std::strcmp(what, "kill") == 0) ::kill(::getpid(), SIGKILL);
  if ((is_short = std::strcmp(what, "short") == 0)) return true;
  errno = std::atoi(what);
  return false;
}

bool allow(const char* call, int descriptor) {
  char link[64], path[4096];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t length = ::readlink(link, path, sizeof path - 1);
  path[length > 0 ? length : 0] = '\0';
  return allow(call, path);
}

}  // namespace

extern "C" {

ssize_t pwrite(int descriptor, const void* data, size_t size, off_t offset) {
  if (!allow("write", descriptor)) return -1;
  if (std::exchange(is_short, false)) size = size / 2 + size % 2;
  return next<decltype(pwrite)>("pwrite")(descriptor, data, size, offset);
}
int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  if ((flags & O_CREAT) != 0 && !allow("create", path)) return -1;
  return next<int(const char*, int, ...)>("open")(path, flags, mode);
}
int close(int descriptor) {
  const int flags = ::fcntl(descriptor, F_GETFL);
  const bool allowed = flags < 0 || (flags & O_ACCMODE) == O_RDONLY || allow("close", descriptor);
  const int error = errno, result = next<decltype(close)>("close")(descriptor);  // gone in any case
  if (allowed) return result;
  errno = error;
  return -1;
}
int mkdir(const char* path, mode_t mode) noexcept {
  return allow("mkdir", path) ? next<int(const char*, mode_t)>("mkdir")(path, mode) : -1;
}
int fsync(int descriptor) {
  return allow("fsync", descriptor) ? next<decltype(fsync)>("fsync")(descriptor) : -1;
}
int ftruncate(int descriptor, off_t size) noexcept {
  return allow("resize", descriptor) ? next<int(int, off_t)>("ftruncate")(descriptor, size) : -1;
}
int rename(const char* from, const char* to) noexcept {
  return allow("rename", from) ? next<int(const char*, const char*)>("rename")(from, to) : -1;
}
int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  using Function = int(int, const char*, int, const char*, unsigned);
  if (std::getenv("SFT_IO_NO_EXCHANGE")) {
    errno = EINVAL;
    return -1;
  }
  return allow("exchange", from) ? next<Function>("renameat2")(from_folder, from, to_folder, to, flags) : -1;
}

}  // extern "C"
