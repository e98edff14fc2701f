// LD_PRELOAD library: for the ranks named by SFT_CLOCK_RANK (or all) the clock of the day is SFT_CLOCK_SHIFT
// seconds off, from SFT_CLOCK_AFTER seconds (0) after the start on. Clocks that only run on are left alone.
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>

#include <cstdlib>
#include <cstring>

namespace {

using ClockGettime = int(clockid_t, timespec*);

int real_clock(clockid_t clock, timespec* time) {
  static auto* const next = reinterpret_cast<ClockGettime*>(::dlsym(RTLD_NEXT, "clock_gettime"));
  return next(clock, time);
}

double monotonic() {
  timespec time{};
  real_clock(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

double number(const char* name) {
  const char* text = std::getenv(name);
  return text ? std::atof(text) : 0;
}

time_t shift() {
  static const double start = monotonic(), after = number("SFT_CLOCK_AFTER");
  static const auto seconds = static_cast<time_t>(number("SFT_CLOCK_SHIFT"));
  static const char* const wanted = std::getenv("SFT_CLOCK_RANK");
  static const char* const rank = std::getenv("OMPI_COMM_WORLD_RANK");
  const bool applies = !wanted || (rank && std::strcmp(wanted, rank) == 0);
  return applies && monotonic() - start >= after ? seconds : 0;
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
