# Warnings, hardening and sanitizers, for our own targets only, as one interface target.
# -Wno-restrict, -Wno-stringop-overflow: GCC 12 warns wrongly about std::string concatenation.
add_library(sft_compiler INTERFACE)
add_library(sft::compiler ALIAS sft_compiler)
target_compile_options(sft_compiler INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict -Wno-stringop-overflow> -fstack-protector-strong>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${SFT_WERROR}>>:-Werror>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CONFIG:Release>>:-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2>)
target_link_options(sft_compiler INTERFACE -Wl,-z,relro,-z,now)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

if(SFT_SANITIZE)
  # vptr: its check opens a pipe to look at an address, which the process that reads HDF5 may not; it then takes every object for a wrong one.
  set(checks -fsanitize=${SFT_SANITIZE} -fno-sanitize=vptr -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  # SFT_UNCHECKED, a property of tests: what is tested is checked, the tests themselves would take as long again to compile.
  target_compile_options(sft_compiler INTERFACE "$<$<NOT:$<BOOL:$<TARGET_PROPERTY:SFT_UNCHECKED>>>:${checks}>")
  target_link_options(sft_compiler INTERFACE -fsanitize=${SFT_SANITIZE})
endif()

if(SFT_BUILD_FUZZERS AND CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(sft_compiler INTERFACE -fsanitize=fuzzer-no-link)
endif()

find_program(SFT_CCACHE ccache)
if(SFT_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${SFT_CCACHE})
endif()
