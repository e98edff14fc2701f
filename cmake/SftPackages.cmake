# Every package the project uses, found once.
find_package(Threads REQUIRED)
if(NOT SFT_BUILD_FUZZERS)
  find_package(SftTorch REQUIRED)
  find_package(MPI REQUIRED COMPONENTS CXX)
  find_package(OpenMP REQUIRED COMPONENTS CXX)
  # The compiler's flag rather than OpenMP::OpenMP_CXX: that links libgomp by path, beside the copy in LibTorch's folder.
  # Both have one soname, so that the program, LibTorch and oneDNN share whichever is loaded, and with it one thread pool.
  add_library(sft_openmp INTERFACE)
  add_library(sft::openmp ALIAS sft_openmp)
  target_compile_options(sft_openmp INTERFACE ${OpenMP_CXX_FLAGS})
  target_link_options(sft_openmp INTERFACE ${OpenMP_CXX_FLAGS})
  find_library(SFT_DNNL_LIBRARY dnnl REQUIRED)
  # The program's malloc; sanitizers bring their own.
  if(NOT SFT_SANITIZE)
    find_library(SFT_JEMALLOC_LIBRARY jemalloc REQUIRED)
  endif()
endif()
find_package(ZLIB REQUIRED)
find_package(Boost 1.74 REQUIRED COMPONENTS program_options)
find_package(spdlog REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
set(HDF5_PREFER_PARALLEL OFF)
find_package(HDF5 REQUIRED COMPONENTS C)

find_path(SFT_XXHASH_INCLUDE_DIR xxhash.h REQUIRED)
find_library(SFT_XXHASH_LIBRARY xxhash REQUIRED)
