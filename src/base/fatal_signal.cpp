#include "sft/base/fatal_signal.h"

#include <execinfo.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "sft/base/activity.h"
#include "sft/base/error.h"

namespace sft::base {
namespace {

struct FatalSignal {
  int number;
  const char* name;
  struct sigaction before;  // what to do after us
};
std::array<FatalSignal, 5> signals{{{SIGSEGV, "SIGSEGV", {}},
                                    {SIGBUS, "SIGBUS", {}},
                                    {SIGILL, "SIGILL", {}},
                                    {SIGFPE, "SIGFPE", {}},
                                    {SIGABRT, "SIGABRT", {}}}};
std::array<char, 300> who_text{};
// The stack may be what could not grow.
std::array<char, 64 * 1024> handler_stack;

// A message made of what a signal handler may use; written by one call.
class Message {
 public:
  Message& operator<<(std::string_view text) {
    const std::size_t count = std::min(text.size(), text_.size() - size_);
    std::memcpy(text_.data() + size_, text.data(), count);
    size_ += count;
    return *this;
  }
  Message& operator<<(int64_t number) {
    std::array<char, 24> digits{};
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr;
    return *this << std::string_view(digits.data(), static_cast<std::size_t>(end - digits.data()));
  }
  void write() const { [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text_.data(), size_); }

 private:
  std::array<char, 1024> text_{};
  std::size_t size_ = 0;
};

// Bytes of address space in use; 0 if that cannot be read.
int64_t address_space() {
  std::array<char, 64> text{};
  const int file = ::open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  const auto count = ::read(file, text.data(), text.size() - 1);
  ::close(file);
  int64_t pages = 0;
  if (count > 0) std::from_chars(text.data(), text.data() + count, pages);
  return pages * ::sysconf(_SC_PAGESIZE);
}

void on_fatal(int number) {
  const FatalSignal* signal = signals.data();
  while (signal->number != number) ++signal;
  const activity::State state = activity::now();
  Message message;
  message << "error: [" << who_text.data() << "] ended by signal " << number << " (" << signal->name
          << ") in step " << state.step << ", phase " << state.phase;
  constexpr int64_t kMiB = 1 << 20, kNearly = 10;  // tenths
  rlimit limit{};
  const int64_t used = address_space();
  const bool limited = ::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  if (limited && used >= static_cast<int64_t>(limit.rlim_cur / kNearly * (kNearly - 1))) {
    message << ": out of memory, " << used / kMiB
            << " MiB of address space are in use and the limit (ulimit -v) is "
            << static_cast<int64_t>(limit.rlim_cur) / kMiB << " MiB\n";
    message.write();
    ::_exit(static_cast<int>(ExitCode::kOutOfMemory));
  }
  message << "\n";
  message.write();
  std::array<void*, 48> frames{};
  ::backtrace_symbols_fd(frames.data(), ::backtrace(frames.data(), static_cast<int>(frames.size())),
                         STDERR_FILENO);
  ::sigaction(number, &signal->before, nullptr);
  ::raise(number);  // when this handler has returned
}

void install() {
  std::array<void*, 1> frame{};
  ::backtrace(frame.data(), 1);  // loads what it needs now
  const stack_t stack{.ss_sp = handler_stack.data(), .ss_flags = 0, .ss_size = handler_stack.size()};
  ::sigaltstack(&stack, nullptr);  // of this thread; others have their own stacks, which do not grow
  struct sigaction action {};
  action.sa_handler = on_fatal;
  action.sa_flags = SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  for (FatalSignal& signal : signals) ::sigaction(signal.number, &action, &signal.before);
}

}  // namespace

void name_fatal_signals(const std::string& who) {
  static const bool installed = (install(), true);
  static_cast<void>(installed);
  std::strncpy(who_text.data(), who.c_str(), who_text.size() - 1);
}

}  // namespace sft::base
