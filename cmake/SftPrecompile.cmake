# What nearly every file includes, precompiled. A header that fewer do does not belong here: the templates it uses are instantiated anew in
# every file (TensorOperators.h: 3 s). The preset `debug` compiles without, which
# holds every file to including what it needs.
option(SFT_PRECOMPILE_HEADERS "Precompile large headers (some 300 MB in the build folder)" OFF)

# The flag must be the same where a precompiled header is used.
function(sft_make_precompiled name)
  file(GENERATE OUTPUT ${CMAKE_BINARY_DIR}/${name}.cpp CONTENT "")
  add_library(${name} OBJECT ${CMAKE_BINARY_DIR}/${name}.cpp)
  target_link_libraries(${name} PRIVATE sft::compiler sft::torch fmt::fmt)
  target_compile_options(${name} PRIVATE ${ARGN})
  target_precompile_headers(${name} PRIVATE <ATen/core/Tensor.h> <fmt/format.h>
    <algorithm> <filesystem> <functional> <map> <memory> <optional> <string> <vector>)
endfunction()
if(SFT_PRECOMPILE_HEADERS)
  sft_make_precompiled(sft_precompiled)
  sft_make_precompiled(sft_precompiled_openmp ${OpenMP_CXX_FLAGS})
endif()

# For a target that uses LibTorch; OPENMP where it is compiled with OpenMP.
function(sft_precompile target)
  if(NOT SFT_PRECOMPILE_HEADERS)
    return()
  endif()
  if("OPENMP" IN_LIST ARGN)
    target_precompile_headers(${target} REUSE_FROM sft_precompiled_openmp)
  else()
    target_precompile_headers(${target} REUSE_FROM sft_precompiled)
  endif()
  target_compile_options(${target} PRIVATE -fPIC)  # in executables too: the flag must be the same
endfunction()
