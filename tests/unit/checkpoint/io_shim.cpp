// LD_PRELOAD library: every write, sync, resize and rename of a path that begins with SFT_IO_ROOT, every
// making of a file or folder there, every close of a file that was written and, with SFT_IO_REMOVALS, every
// removal is a line "call path" in the file SFT_IO_TRACE. Those whose line matches the pattern SFT_IO_CALLS
// (of a shell; all without it) are numbered from 0. With SFT_IO_FAIL=<number>:<errno> that call fails; with
// <number>+:<errno> those after it too; with always:<errno> all do; with <number>:kill
// the process dies there; with <number>:short a write does half. With SFT_IO_RANK only calls of that rank
// count (as mpirun numbers them). While the file SFT_IO_HOLD exists, calls wait, but for those that make a
// folder, by which a save is seen to have begun. With SFT_IO_NO_EXCHANGE
// names cannot be exchanged, as on network file systems. With SFT_IO_SLOW every call takes so many milliseconds longer.
#include <dlfcn.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
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

void trace(const std::string& line) {
  const char* file = std::getenv("SFT_IO_TRACE");
  if (!file) return;
  const std::string text = line + "\n";
  const int descriptor = next<int(const char*, int, ...)>("open")(file, O_WRONLY | O_CREAT | O_APPEND, 0644);
  [[maybe_unused]] const ssize_t written = ::write(descriptor, text.data(), text.size());
  next<int(int)>("close")(descriptor);
}

// What SFT_IO_FAIL says of this call: the text after the colon, or null.
const char* verdict(const std::string& line) {
  static std::atomic<long> count{0};
  const char* fail = std::getenv("SFT_IO_FAIL");
  const char* calls = std::getenv("SFT_IO_CALLS");
  if (!fail || (calls && ::fnmatch(calls, line.c_str(), 0) != 0)) return nullptr;
  const char* colon = std::strchr(fail, ':');
  const bool always = std::strncmp(fail, "always", 6) == 0;
  const long number = count++, chosen = std::strtol(fail, nullptr, 10);
  const bool later = number > chosen && colon[-1] == '+';
  return always || number == chosen || later ? colon + 1 : nullptr;
}

thread_local bool is_short = false;

// False: the call is to fail, errno is set.
bool allow(const char* call, const char* path) {
  if (!counts(path)) return true;
  const std::string line = std::string(call) + " " + path;
  trace(line);
  if (const char* slow = std::getenv("SFT_IO_SLOW")) ::usleep(1000 * static_cast<useconds_t>(std::atoi(slow)));
  const char* hold = std::getenv("SFT_IO_HOLD");
  if (std::strcmp(call, "mkdir") == 0) hold = nullptr;
  while (hold && ::access(hold, F_OK) == 0) ::usleep(2000);
  const char* what = verdict(line);
  if (!what) return true;
  if (std::strcmp(what, "kill") == 0) ::kill(::getpid(), SIGKILL);
  if ((is_short = std::strcmp(what, "short") == 0)) return true;
  errno = std::atoi(what);
  return false;
}

using Path = char[4096];

void read_path(int descriptor, Path& path) {
  char link[64];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t length = ::readlink(link, path, sizeof path - 1);
  path[length > 0 ? length : 0] = '\0';
}

bool allow(const char* call, int descriptor) {
  Path path;
  read_path(descriptor, path);
  return allow(call, path);
}

bool allow_removal(const char* path) {
  return !std::getenv("SFT_IO_REMOVALS") || allow("remove", path);
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
int remove(const char* path) noexcept {
  return allow_removal(path) ? next<int(const char*)>("remove")(path) : -1;
}
int unlinkat(int folder, const char* name, int flags) noexcept {
  Path parent;
  read_path(folder, parent);
  const bool allowed = allow_removal(name[0] == '/' ? name : (std::string(parent) + "/" + name).c_str());
  return allowed ? next<int(int, const char*, int)>("unlinkat")(folder, name, flags) : -1;
}

}  // extern "C"
