// A loop over independent pieces on a few short-lived threads, for I/O and hashing (numeric kernels use
// LibTorch's pool).
#pragma once

#include <cstdint>
#include <functional>

namespace sft::base {

// Runs body(0) .. body(count - 1), each once, on at most num_threads threads (the caller's is one of them).
// Returns when all have ended; after an exception no new piece is started, and the first one is rethrown.
void run_parallel(int64_t count, int num_threads, const std::function<void(int64_t)>& body);

}  // namespace sft::base
