// Counts what tensors allocate on the CPU, as LibTorch's allocator reports it.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace sft::testing {

struct Allocations {
  std::vector<int64_t> sizes;  // bytes, in order
  int64_t live = 0;            // bytes allocated and not freed since the start
  int64_t peak = 0;            // largest live
};

// What `action` allocates on this thread.
inline Allocations allocations_of(const std::function<void()>& action) {
  class Log final : public c10::MemoryReportingInfoBase {
   public:
    void reportMemoryUsage(void*, int64_t bytes, std::size_t, std::size_t, c10::Device) override {
      seen.live += bytes;
      seen.peak = std::max(seen.peak, seen.live);
      if (bytes > 0) seen.sizes.push_back(bytes);
    }
    bool memoryProfilingEnabled() const override { return true; }
    Allocations seen;
  };
  const auto log = std::make_shared<Log>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, log);
  action();
  return log->seen;
}

}  // namespace sft::testing
