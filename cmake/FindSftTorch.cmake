# Finds LibTorch without Torch's own package file, which insists on a CUDA toolkit.
# Looked for in: CMAKE_PREFIX_PATH / Torch_ROOT, then the Python package `torch` of the project's virtual environment
# or of the python3 on PATH (located without importing it).
# Targets: sft::torch (CPU half, linked), and SFT_TORCH_LIBRARY_DIR, the folder that holds libtorch_cuda.so if any.
find_path(SFT_TORCH_INCLUDE_DIR ATen/core/Tensor.h PATH_SUFFIXES include torch/include HINTS ${Torch_ROOT})
if(NOT SFT_TORCH_INCLUDE_DIR)
  find_program(SFT_PYTHON NAMES python3 HINTS ${SFT_VENV}/bin NO_CACHE)
  execute_process(
    COMMAND ${SFT_PYTHON} -c
      "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
    OUTPUT_VARIABLE _torch_root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(_torch_root)
    find_path(SFT_TORCH_INCLUDE_DIR ATen/core/Tensor.h PATHS ${_torch_root}/include NO_DEFAULT_PATH)
  endif()
endif()
get_filename_component(_torch_root "${SFT_TORCH_INCLUDE_DIR}" DIRECTORY)
find_library(SFT_TORCH_CPU_LIBRARY torch_cpu PATHS ${_torch_root}/lib NO_DEFAULT_PATH)
find_library(SFT_TORCH_C10_LIBRARY c10 PATHS ${_torch_root}/lib NO_DEFAULT_PATH)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(SftTorch
  REQUIRED_VARS SFT_TORCH_CPU_LIBRARY SFT_TORCH_C10_LIBRARY SFT_TORCH_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "LibTorch was not found: run launch/setup, or give its folder in CMAKE_PREFIX_PATH.")

if(SftTorch_FOUND AND NOT TARGET sft::torch)
  get_filename_component(SFT_TORCH_LIBRARY_DIR ${SFT_TORCH_CPU_LIBRARY} DIRECTORY)
  add_library(sft_torch INTERFACE)
  add_library(sft::torch ALIAS sft_torch)
  # -idirafter: the torch package carries its own fmt, which must not hide the system's.
  target_compile_options(sft_torch INTERFACE
    "SHELL:-idirafter \"${SFT_TORCH_INCLUDE_DIR}\""
    "SHELL:-idirafter \"${SFT_TORCH_INCLUDE_DIR}/torch/csrc/api/include\"")
  # Otherwise ATen/TensorOperators.h brings every operator's header: a third of the compile time of who includes it.
  target_compile_definitions(sft_torch INTERFACE AT_PER_OPERATOR_HEADERS)
  target_link_libraries(sft_torch INTERFACE ${SFT_TORCH_CPU_LIBRARY} ${SFT_TORCH_C10_LIBRARY})
  target_link_options(sft_torch INTERFACE -Wl,-rpath,${SFT_TORCH_LIBRARY_DIR})
endif()
