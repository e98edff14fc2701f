// sft-inspect: reads HDF5 for sft-dist (sft/data/inspector.h). Standard input is the connection.
//
// This process calls no HDF5. It forks one for every file, which may open nothing, not even that file: it
// gets it open. The library can then neither follow a link to another file nor load a plug-in.

#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <new>

#include "data/hdf5/read_layout.h"
#include "data/inspector.h"
#include "sft/base/error.h"
#include "sft/base/log.h"

namespace {

namespace data = sft::data;
using sft::base::ExitCode;
using Clock = std::chrono::steady_clock;

constexpr rlim_t kProcessorSeconds = 4;
constexpr rlim_t kMemoryBytes = rlim_t{1} << 30;
constexpr std::chrono::seconds kLongestWait{60};  // of a file system that does not answer, too

std::string answer(ExitCode code, const std::string& text) {
  return fmt::format("{}\n{}", static_cast<int>(code), text);
}

void limit(int resource, rlim_t value) {
  const rlimit limits{value, value};
  ::setrlimit(static_cast<__rlimit_resource>(resource), &limits);
}

void confine_this_process() {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  limit(RLIMIT_CPU, kProcessorSeconds);
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_FSIZE, 0);
  limit(RLIMIT_NOFILE, 0);            // what is open stays open
#ifndef SFT_INSPECT_UNLIMITED_MEMORY  // address sanitizers reserve terabytes
  limit(RLIMIT_AS, kMemoryBytes);
#endif
}

// In the disposable process.
std::string look_at(const std::string& path, int descriptor) {
  try {
    return answer(ExitCode::kDone, data::to_json(data::read_layout(sft::base::File(path, descriptor))));
  } catch (const sft::base::Error& error) {
    return answer(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return answer(
        ExitCode::kInvalidData,
        fmt::format("{}: reading its HDF5 structure takes more than {} MiB of memory: it is damaged, or made "
                    "to do harm",
                    path, kMemoryBytes >> 20));
  } catch (const std::exception& error) {
    return answer(ExitCode::kInternal, error.what());
  }
}

std::string fate(const std::string& path, int status) {
  const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  const std::string how =
      signal == SIGXCPU || signal == SIGKILL ? fmt::format("took more than {} s", kProcessorSeconds)
      : signal != 0 ? fmt::format("crashed the HDF5 library (signal {}, {})", signal, ::strsignal(signal))
                    : fmt::format("ended the HDF5 library with code {}", WEXITSTATUS(status));
  return answer(
      ExitCode::kInvalidData,
      fmt::format("{}: reading its HDF5 structure, in a process made for that, {}: the file is damaged, or "
                  "made to do harm; write it again with sft-prepare",
                  path, how));
}

// All that comes until the other end is closed; nothing when that takes too long.
bool read_until_closed(int pipe, std::string& text) {
  const auto deadline = Clock::now() + kLongestWait;
  char buffer[1 << 16];
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd ready{pipe, POLLIN, 0};
    const int count = ::poll(&ready, 1, left > 0 ? static_cast<int>(left) : 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0 || text.size() > static_cast<std::size_t>(data::kMaxAnswerBytes)) return false;
    const ssize_t bytes = ::read(pipe, buffer, sizeof(buffer));
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) return true;
    text.append(buffer, static_cast<std::size_t>(bytes));
  }
}

void write_all(int pipe, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(pipe, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(count));
  }
}

std::string inspect(const std::string& path, int descriptor) {
  int ends[2];
  if (::pipe(ends) != 0) return answer(ExitCode::kInternal, "no pipe");
  const pid_t child = ::fork();
  if (child < 0) return answer(ExitCode::kOutOfMemory, fmt::format("{}: no process to look at it", path));
  if (child == 0) {
    ::close(STDIN_FILENO);
    confine_this_process();
    write_all(ends[1], look_at(path, descriptor));
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string text;
  const bool in_time = read_until_closed(ends[0], text);
  ::close(ends[0]);
  if (!in_time) ::kill(child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!in_time) {
    return answer(
        ExitCode::kInvalidData,
        fmt::format("{}: reading its HDF5 structure took more than {} s: the file is damaged, made to do "
                    "harm, or on a file system that does not answer",
                    path, kLongestWait.count()));
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? text : fate(path, status);
}

}  // namespace

int main() {
  // It ends when its connection does, and not before: a job's signals are for sft-dist.
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGHUP}) std::signal(signal, SIG_IGN);
  ::close_range(STDERR_FILENO + 1, ~0U, 0);  // the launcher's, which must see sft-dist's end
  while (const std::optional<data::Message> request = data::receive_message(STDIN_FILENO)) {
    if (request->descriptor < 0) return static_cast<int>(ExitCode::kConfig);
    const std::string text = inspect(request->text, request->descriptor);
    ::close(request->descriptor);
    if (!data::send_message(STDIN_FILENO, text)) break;
  }
  return 0;
}
