# Two ways to shorten a full build, both off in the preset `debug`, which so holds every file to including what it needs.

# Several files of a room in one compilation: LibTorch's headers and templates are worked through once for all of them.
option(SFT_UNITY_BUILD "Compile the files of a room several at a time" OFF)

# What nearly every file includes, precompiled. A header that fewer do does not belong here:
# the templates it uses are instantiated anew in every file (TensorOperators.h: 3 s).
option(SFT_PRECOMPILE_HEADERS "Precompile large headers (some 300 MB in the build folder)" OFF)

if(SFT_PRECOMPILE_HEADERS)
  file(GENERATE OUTPUT ${CMAKE_BINARY_DIR}/sft_precompiled.cpp CONTENT "")
  add_library(sft_precompiled OBJECT ${CMAKE_BINARY_DIR}/sft_precompiled.cpp)
  target_link_libraries(sft_precompiled PRIVATE sft::compiler sft::torch sft::openmp fmt::fmt)
  target_precompile_headers(sft_precompiled PRIVATE <ATen/core/Tensor.h> <fmt/format.h>
    <algorithm> <filesystem> <functional> <map> <memory> <optional> <string> <vector>)
endif()

# For a target that uses LibTorch. The flags must be the same wherever the header is used.
function(sft_precompile target)
  if(SFT_PRECOMPILE_HEADERS)
    target_precompile_headers(${target} REUSE_FROM sft_precompiled)
    target_compile_options(${target} PRIVATE -fPIC)
    target_link_libraries(${target} PRIVATE sft::openmp)
  endif()
endfunction()
