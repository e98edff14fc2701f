// How freed memory is kept for the next tensor.
#pragma once

namespace sft::ops {

// Local; once, before the first large tensor. Has the C library keep freed memory instead of giving it back to the system,
// except in blocks of more than 32 MiB: every micro-batch allocates the same activations anew, and the first touch of a page
// costs several times what writing it does. The peak does not change; memory is given back when the process ends.
void keep_freed_memory();

}  // namespace sft::ops
