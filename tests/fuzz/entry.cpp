// The name and types are libFuzzer's.
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  sft::fuzz::one_input(std::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
