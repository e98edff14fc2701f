#include "sft/base/timer.h"

#include "sft/base/activity.h"

namespace sft::base {

const char* phase_name(Phase phase) {
  switch (phase) {
    case Phase::kData: return "data";
    case Phase::kForward: return "forward";
    case Phase::kBackward: return "backward";
    case Phase::kCommunication: return "communication";
    case Phase::kOptimizer: return "optimizer";
    case Phase::kEvaluation: return "evaluation";
    case Phase::kCheckpoint: return "checkpoint";
    case Phase::kLogging: return "logging";
    case Phase::kCount: break;
  }
  return "other";
}

PhaseTimers::Scope::Scope(PhaseTimers& timers, Phase phase) : timers_(timers), outer_(timers.current_) {
  timers_.switch_to(phase);
}

PhaseTimers::Scope::~Scope() { timers_.switch_to(outer_); }

void PhaseTimers::switch_to(Phase phase) {
  const auto now = std::chrono::steady_clock::now();
  if (current_ != Phase::kCount) {
    seconds_[static_cast<std::size_t>(current_)] += std::chrono::duration<double>(now - since_).count();
  }
  current_ = phase;
  activity::set_phase(phase_name(phase));
  since_ = now;
}

PhaseTimers::Seconds PhaseTimers::take() {
  switch_to(current_);
  const Seconds result = seconds_;
  seconds_ = {};
  return result;
}

double monotonic_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace sft::base
