// LD_PRELOAD library: for the ranks named by SFT_CLOCK_RANK (or all) the clock of the day is SFT_CLOCK_SHIFT
// seconds off, from when the file SFT_CLOCK_FROM exists (or the start) on. Clocks that only run on are left alone.
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace {

using ClockGettime = int(clockid_t, timespec*);

int real_clock(clockid_t clock, timespec* time) {
  static auto* const next = reinterpret_cast<ClockGettime*>(::dlsym(RTLD_NEXT, "clock_gettime"));
  return next(clock, time);
}

// Once there, it counts as there for ever. A clock leaves errno alone.
bool has_jumped() {
  static const char* const from = std::getenv("SFT_CLOCK_FROM");
  static std::atomic<bool> jumped{from == nullptr};
  const int before = errno;
  if (!jumped && ::access(from, F_OK) == 0) jumped = true;
  errno = before;
  return jumped;
}

time_t shift() {
  static const char* const seconds = std::getenv("SFT_CLOCK_SHIFT");
  static const char* const wanted = std::getenv("SFT_CLOCK_RANK");
  static const char* const rank = std::getenv("OMPI_COMM_WORLD_RANK");
  const bool applies = !wanted || (rank && std::strcmp(wanted, rank) == 0);
  return applies && seconds && has_jumped() ? static_cast<time_t>(std::atol(seconds)) : 0;
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* time) {
  const int result = real_clock(clock, time);
  if (clock == CLOCK_REALTIME && result == 0) time->tv_sec += shift();
  return result;
}

int gettimeofday(timeval* time, void* /*zone*/) {
  timespec now{};
  const int result = clock_gettime(CLOCK_REALTIME, &now);
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return result;
}

time_t time(time_t* out) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}

}  // extern "C"
