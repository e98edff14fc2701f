#include "data/inspector.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>

#include "sft/base/error.h"
#include "sft/data/inspector.h"

namespace sft::data {
namespace {

using base::ExitCode;
using base::fail;
namespace fs = std::filesystem;

constexpr timeval kLongestWait{.tv_sec = 120, .tv_usec = 0};  // the helper itself gives up earlier

fs::path helper_path() {
  if (const char* path = std::getenv("SFT_INSPECT"); path != nullptr && *path != '\0') return path;
  return fs::read_symlink("/proc/self/exe").parent_path() / kInspectorName;
}

// The running helper.
class Helper {
 public:
  Helper() {
    const std::string path = helper_path().string();
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) cannot_start(path, errno);
    socket_ = ends[0];
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &kLongestWait, sizeof(kLongestWait));
    const int error = spawn(path, ends[1]);
    ::close(ends[1]);
    if (error == 0) return;
    ::close(socket_);
    cannot_start(path, error);
  }
  ~Helper() {
    ::close(socket_);  // which ends it
    while (::waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  Helper(const Helper&) = delete;
  Helper& operator=(const Helper&) = delete;

  std::string ask(const base::File& file) {
    std::optional<Message> answer;
    if (send_message(socket_, file.path().string(), file.descriptor())) answer = receive_message(socket_);
    if (!answer) {
      fail(ExitCode::kInternal, "{}: {}, which was to look at it, ended or does not answer",
           file.path().string(), kInspectorName);
    }
    if (answer->descriptor >= 0) ::close(answer->descriptor);
    return std::move(answer->text);
  }

 private:
  [[noreturn]] static void cannot_start(const std::string& path, int error) {
    fail(ExitCode::kConfig, "cannot start {}, which reads HDF5 for sft-dist: {}; install it beside sft-dist",
         path, std::strerror(error));
  }

  // Its standard input is the connection; what a crashing library prints is of no use to anyone.
  int spawn(const std::string& path, int connection) {
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, connection, STDIN_FILENO);
    ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    char* const arguments[] = {const_cast<char*>(path.c_str()), nullptr};
    const int error = ::posix_spawn(&process_, path.c_str(), &actions, nullptr, arguments, environ);
    ::posix_spawn_file_actions_destroy(&actions);
    return error;
  }

  int socket_ = -1;
  pid_t process_ = -1;
};

std::mutex mutex;  // of the helper: one file at a time
std::optional<Helper> helper;

// "<exit code>\n<text>"
FileLayout read_answer(const std::string& answer, const fs::path& path) {
  int code = -1;
  const auto [end, error] = std::from_chars(answer.data(), answer.data() + answer.size(), code);
  if (error != std::errc() || end == answer.data() + answer.size() || *end != '\n')
    fail(ExitCode::kInternal, "{}: {} gives an answer that is none", path.string(), kInspectorName);
  const std::string text(end + 1, answer.data() + answer.size());
  if (code == 0) return layout_from_json(text, path);
  for (const ExitCode known : {ExitCode::kInvalidData, ExitCode::kStorage, ExitCode::kOutOfMemory}) {
    if (code == static_cast<int>(known)) throw base::Error(known, text);
  }
  fail(ExitCode::kInternal, "{}: {}", path.string(), text);
}

}  // namespace

void start_inspector() {
  const std::lock_guard lock(mutex);
  try {
    if (!helper) helper.emplace();
  } catch (const std::exception&) {  // comes again with the first data set
  }
}

void stop_inspector() {
  const std::lock_guard lock(mutex);
  helper.reset();
}

FileLayout inspect(const base::File& file) {
  const std::lock_guard lock(mutex);
  if (!helper) helper.emplace();
  return read_answer(helper->ask(file), file.path());
}

}  // namespace sft::data
