#include "process_clock.h"

#include <unistd.h>

#include <chrono>
#include <ctime>
#include <sstream>
#include <string>

#include "sft/base/system_file.h"

namespace sft::train {

double seconds_since_process_start() {
  const std::string text = base::read_system_file("/proc/self/stat");
  // Field 22 is the start time in clock ticks since boot; the name in field 2 may contain blanks, so count
  // from its closing bracket.
  std::istringstream fields(text.substr(text.rfind(')') + 1));
  std::string value;
  for (int field = 3; field <= 22; ++field) fields >> value;
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  const double uptime = static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  return uptime - std::stod(value) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

double process_started() {
  static const double started = unix_seconds() - seconds_since_process_start();
  return started;
}

}  // namespace sft::train
