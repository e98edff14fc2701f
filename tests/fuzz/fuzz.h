// What fuzz targets share: the input as text and as an open file, and refusals that count as success.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "sft/base/error.h"
#include "sft/base/file.h"

namespace sft::fuzz {

// Ends the process, which libFuzzer reports with the input, unless the condition holds.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

// A file in memory with these bytes.
inline base::File file_of(std::string_view bytes) {
  const int descriptor = ::memfd_create("input", MFD_CLOEXEC);
  require(::write(descriptor, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()),
          "memory for a file");
  return {"input", descriptor};
}

// Whether `action` came to its end. Its only other way out is an Error kInvalidData.
template <typename Action>
bool accepted(Action&& action) {
  try {
    action();
    return true;
  } catch (const base::Error& error) {
    if (error.code() == base::ExitCode::kInvalidData) return false;
    std::fprintf(stderr, "exit code %d: %s\n", static_cast<int>(error.code()), error.what());
    std::abort();
  }
}

// Each target defines this: one input, which is not trusted. What must hold is required of it.
void one_input(std::string_view input);

}  // namespace sft::fuzz
