// LD_PRELOAD library: every write, sync, resize and rename below the folder SFT_IO_ROOT gets a number,
// counted from 0, and a line "call path" in the file SFT_IO_TRACE. With SFT_IO_FAIL=<number>:<errno> that
// call fails; with <number>:kill the process dies there.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

// False: the call is to fail, errno is set.
bool allow(const char* call, const char* path) {
  static std::atomic<long> count{0};
  static const char* const root = std::getenv("SFT_IO_ROOT");
  if (!root || std::strncmp(path, root, std::strlen(root)) != 0) return true;
  const long number = count++;
  if (const char* trace = std::getenv("SFT_IO_TRACE")) {
    char line[4200];
    const int length = std::snprintf(line, sizeof line, "%s %s\n", call, path);
    const int descriptor = ::open(trace, O_WRONLY | O_CREAT | O_APPEND, 0644);
    [[maybe_unused]] const ssize_t written = ::write(descriptor, line, static_cast<size_t>(length));
    ::close(descriptor);
  }
  const char* fail = std::getenv("SFT_IO_FAIL");
  if (!fail) return true;
  char* end = nullptr;
  if (std::strtol(fail, &end, 10) != number || *end != ':') return true;
  if (std::strcmp(end + 1, "kill") == 0) ::kill(::getpid(), SIGKILL);
  errno = std::atoi(end + 1);
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
  return allow("write", descriptor) ? next<decltype(pwrite)>("pwrite")(descriptor, data, size, offset) : -1;
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
  return allow("exchange", from) ? next<Function>("renameat2")(from_folder, from, to_folder, to, flags) : -1;
}

}  // extern "C"
