// Where the time of a step goes: named phases on the monotonic clock.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>

namespace sft::base {

// Phases of a training run; "other" is what is left of the wall time.
enum class Phase { kData, kForward, kBackward, kCommunication, kOptimizer, kEvaluation, kCheckpoint, kLogging, kCount };
inline constexpr std::size_t kNumPhases = static_cast<std::size_t>(Phase::kCount);
const char* phase_name(Phase phase);  // "data", "forward", ...

// Seconds spent in each phase since the last take(). Local; one thread.
class PhaseTimers {
 public:
  // Counts the time until it is destroyed towards the phase. An inner scope pauses the outer one, so phases never overlap.
  class Scope {
   public:
    Scope(PhaseTimers& timers, Phase phase);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    PhaseTimers& timers_;
    Phase outer_;
  };
  [[nodiscard]] Scope scope(Phase phase) { return Scope(*this, phase); }

  using Seconds = std::array<double, kNumPhases>;
  Seconds take();  // and start again at zero

 private:
  void switch_to(Phase phase);
  Phase current_ = Phase::kCount;  // none
  std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
  Seconds seconds_{};
};

double monotonic_seconds();

}  // namespace sft::base
