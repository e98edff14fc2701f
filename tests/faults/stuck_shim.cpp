// LD_PRELOAD library: the rank named by SFT_FAULT_RANK does not come back from its SFT_STUCK_AFTER-th
// parallel loop; it spins (SFT_STUCK=spin), sleeps (sleep), or its process ends as if all were well (exit0) or not (exit1).
#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace {

using Body = void(void*);
using GompParallel = void(Body*, void*, unsigned, unsigned);

bool is_the_rank() {
  const char* wanted = std::getenv("SFT_FAULT_RANK");
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (!rank) rank = std::getenv("SLURM_PROCID");
  return wanted && rank && std::strcmp(wanted, rank) == 0;
}

}  // namespace

extern "C" {

// Exported: the stack of the stuck thread shall show its name.
void sft_test_stuck() {
  const char* how = std::getenv("SFT_STUCK");
  const bool spins = how && std::strcmp(how, "spin") == 0;
  if (how && std::strncmp(how, "exit", 4) == 0) ::_exit(how[4] - '0');
  for (;;) {
    if (!spins) ::pause();
    asm volatile("");  // a loop without effects may be taken for one that ends
  }
}

void GOMP_parallel(Body* body, void* data, unsigned threads, unsigned flags) {
  static auto* const next = reinterpret_cast<GompParallel*>(::dlsym(RTLD_NEXT, "GOMP_parallel"));
  static const bool chosen = is_the_rank();
  static const char* const after = std::getenv("SFT_STUCK_AFTER");
  static std::atomic<long> calls{0};
  if (chosen && after && ++calls >= std::atol(after)) sft_test_stuck();
  next(body, data, threads, flags);
}

}  // extern "C"
