#include "sft/ops/memory.h"

#include <malloc.h>

namespace sft::ops {

void keep_freed_memory() {
#if defined(__GLIBC__)
  constexpr int kLargestAllowed = 32 << 20;  // glibc refuses more
  mallopt(M_MMAP_THRESHOLD, kLargestAllowed);
  mallopt(M_TRIM_THRESHOLD, -1);  // never
  mallopt(M_TOP_PAD, 64 << 20);   // grow in large steps
#endif
}

}  // namespace sft::ops
