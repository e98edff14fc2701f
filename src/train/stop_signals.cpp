#include "sft/train/stop_signals.h"

#include <unistd.h>
#include <csignal>

#include <array>
#include <atomic>

namespace sft::train {
namespace {

constexpr std::array kSignals{SIGUSR1, SIGTERM, SIGINT};
// A signal handler has no other way to reach the program's state.
std::atomic<int> stop_requests{0};
static_assert(std::atomic<int>::is_always_lock_free);

void on_signal(int signal) {
  if (stop_requests.fetch_add(1) > 0 && signal == SIGINT) ::_exit(128 + SIGINT);
}

}  // namespace

struct StopSignals::Saved {
  std::array<struct sigaction, kSignals.size()> actions;
};

StopSignals::StopSignals() : saved_(std::make_unique<Saved>()) {
  stop_requests = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &saved_->actions[i]);
}

StopSignals::~StopSignals() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    // A rank on its way out must not die of a launcher's SIGTERM (leave_together in main.cpp).
    if (kSignals[i] != SIGINT) saved_->actions[i].sa_handler = SIG_IGN;
    sigaction(kSignals[i], &saved_->actions[i], nullptr);
  }
}

bool StopSignals::requested() const {
  return stop_requests.load() > 0;
}

void StopVote::ask() {
  pending_ = comm_.start_sum(signals_.requested() ? 1 : 0);
}

bool StopVote::answer() {
  const int64_t votes = pending_->get();
  pending_.reset();
  return votes > 0;
}

}  // namespace sft::train
