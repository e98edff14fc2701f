# The CUDA runtime, NCCL and LibTorch's CUDA half, for libsft_cuda.so: SFT_CUDA_FOUND and the target sft::cuda_libs.
# No CUDA compiler is needed. The copies beside the torch package come first: the program must meet one libcudart and one libnccl only.
set(SFT_CUDA_FOUND FALSE)
if(NOT SFT_WITH_CUDA STREQUAL "OFF")
  get_filename_component(_packages "${SFT_TORCH_LIBRARY_DIR}/../../nvidia" ABSOLUTE)
  file(GLOB _wheels "${_packages}/cu[0-9]*" "${_packages}/cuda_runtime" "${_packages}/nccl")
  set(_places ${_wheels} $ENV{CUDA_HOME} /usr/local/cuda)
  find_path(SFT_CUDART_INCLUDE_DIR cuda_runtime_api.h PATHS ${_places} PATH_SUFFIXES include NO_DEFAULT_PATH)
  find_path(SFT_CUDART_INCLUDE_DIR cuda_runtime_api.h)
  find_path(SFT_NCCL_INCLUDE_DIR nccl.h PATHS ${_places} PATH_SUFFIXES include NO_DEFAULT_PATH)
  find_path(SFT_NCCL_INCLUDE_DIR nccl.h)
  # The packages carry no unversioned names.
  find_library(SFT_CUDART_LIBRARY NAMES libcudart.so.13 libcudart.so.12 cudart PATHS ${_places} PATH_SUFFIXES lib lib64 NO_DEFAULT_PATH)
  find_library(SFT_CUDART_LIBRARY NAMES cudart)
  find_library(SFT_NCCL_LIBRARY NAMES libnccl.so.2 nccl PATHS ${_places} PATH_SUFFIXES lib lib64 NO_DEFAULT_PATH)
  find_library(SFT_NCCL_LIBRARY NAMES nccl)
  find_library(SFT_TORCH_CUDA_LIBRARY torch_cuda PATHS ${SFT_TORCH_LIBRARY_DIR} NO_DEFAULT_PATH)
  find_library(SFT_C10_CUDA_LIBRARY c10_cuda PATHS ${SFT_TORCH_LIBRARY_DIR} NO_DEFAULT_PATH)

  set(SFT_CUDA_FOUND TRUE)
  set(_missing)
  foreach(_part CUDART_INCLUDE_DIR NCCL_INCLUDE_DIR CUDART_LIBRARY NCCL_LIBRARY TORCH_CUDA_LIBRARY C10_CUDA_LIBRARY)
    mark_as_advanced(SFT_${_part})
    if(NOT SFT_${_part})
      set(SFT_CUDA_FOUND FALSE)
      list(APPEND _missing SFT_${_part})
    endif()
  endforeach()
  if(NOT SFT_CUDA_FOUND AND SFT_WITH_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SFT_WITH_CUDA=ON, but these were not found: ${_missing}. Install the CUDA toolkit, NCCL and a torch package "
                        "with CUDA (launch/setup --full), or give their paths.")
  endif()
endif()

if(SFT_CUDA_FOUND)
  message(STATUS "CUDA half: ${SFT_CUDART_LIBRARY}, ${SFT_NCCL_LIBRARY}")
  add_library(sft_cuda_libs INTERFACE)
  add_library(sft::cuda_libs ALIAS sft_cuda_libs)
  # After LibTorch's own folder, so that the system's headers are not hidden.
  target_compile_options(sft_cuda_libs INTERFACE
    "SHELL:-idirafter \"${SFT_CUDART_INCLUDE_DIR}\"" "SHELL:-idirafter \"${SFT_NCCL_INCLUDE_DIR}\"")
  get_filename_component(_cudart_dir ${SFT_CUDART_LIBRARY} DIRECTORY)
  get_filename_component(_nccl_dir ${SFT_NCCL_LIBRARY} DIRECTORY)
  # torch_cuda has no symbol we call: it registers LibTorch's CUDA kernels when it is loaded.
  target_link_libraries(sft_cuda_libs INTERFACE -Wl,--no-as-needed ${SFT_TORCH_CUDA_LIBRARY} -Wl,--as-needed
                        ${SFT_C10_CUDA_LIBRARY} ${SFT_CUDART_LIBRARY} ${SFT_NCCL_LIBRARY})
  # The old tag wins over LD_LIBRARY_PATH, where modules of clusters put another NCCL.
  target_link_options(sft_cuda_libs INTERFACE -Wl,--disable-new-dtags -Wl,-rpath,${_cudart_dir} -Wl,-rpath,${_nccl_dir})
endif()
