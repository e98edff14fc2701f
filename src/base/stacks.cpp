#include "stacks.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <fmt/core.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

namespace sft::base {
namespace {

constexpr int kMaxFrames = 48;
constexpr int kFramesOfHandler = 2;  // the handler and the kernel's signal frame

// Where a thread that was asked puts its frames. One thread is asked at a time; an answer that comes too late
// carries an old question's number and is not looked at.
struct Answer {
  std::array<void*, kMaxFrames> frames{};
  std::atomic<int> count{0};
  std::atomic<int> question{0};
};
Answer answer;
std::atomic<int> question{0};

int ask_signal() {
  return SIGRTMIN + 6;
}

void on_ask(int) {
  const int asked = question.load();
  answer.count = backtrace(answer.frames.data(), kMaxFrames);
  answer.question = asked;
}

std::string demangled(const char* name) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(abi::__cxa_demangle(name, nullptr, nullptr, &status),
                                                         &std::free);
  return status == 0 ? text.get() : name;
}

std::string frame_text(void* address) {
  Dl_info info{};
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return fmt::format("{}", address);
  const std::string file = std::filesystem::path(info.dli_fname).filename().string();
  const auto offset = static_cast<const char*>(address) - static_cast<const char*>(info.dli_fbase);
  return fmt::format("{} ({}+{:#x})", info.dli_sname != nullptr ? demangled(info.dli_sname) : "?", file,
                     offset);
}

bool ask(int thread) {
  const int number = ++question;
  if (syscall(SYS_tgkill, getpid(), thread, ask_signal()) != 0) return false;
  for (int waited = 0; waited < 1000; ++waited) {
    if (answer.question == number) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

}  // namespace

void prepare_stacks() {
  std::array<void*, 2> frames{};
  backtrace(frames.data(),
            static_cast<int>(frames.size()));  // loads what it needs now, not in a signal handler
  struct sigaction action {};
  action.sa_handler = on_ask;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(ask_signal(), &action, nullptr);
}

std::string all_stacks() {
  std::string text;
  const auto self = static_cast<int>(syscall(SYS_gettid));
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task", error)) {
    const int thread = std::atoi(entry.path().filename().c_str());
    if (thread == self) continue;
    std::string name;
    std::getline(std::ifstream(entry.path() / "comm"), name);
    text += fmt::format("thread {} ({})\n", thread, name);
    if (!ask(thread)) {
      text += "  does not answer\n";
      continue;
    }
    for (int i = kFramesOfHandler; i < answer.count; ++i)
      text += fmt::format("  {}\n", frame_text(answer.frames[static_cast<std::size_t>(i)]));
  }
  return text;
}

}  // namespace sft::base
