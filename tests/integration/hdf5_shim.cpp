// LD_PRELOAD library: opening an HDF5 file does what SFT_HDF5 says, in place of a library that a file has
// taken over: "crash", "abort", "exit", "spin" for ever, or "memory" without end.
#include <signal.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

extern "C" int64_t H5Fopen(const char* /*name*/, unsigned /*flags*/, int64_t /*access*/) {
  const char* const given = std::getenv("SFT_HDF5");
  const auto is = [&](const char* what) { return given != nullptr && std::strcmp(given, what) == 0; };
  if (is("crash")) ::raise(SIGSEGV);
  if (is("abort")) std::abort();
  if (is("exit")) ::_exit(3);
  volatile uint64_t count = 0;
  while (is("spin")) count = count + 1;
  while (is("memory")) std::memset(new char[1 << 20], 1, 1 << 20);
  return -1;
}
