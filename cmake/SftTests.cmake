# Test registration. Every test executable is GoogleTest; MPI tests run once per rank count.
find_package(GTest REQUIRED)

set(SFT_MPI_TEST_ENV
  OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
  PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe)
set(SFT_UNIT_TEST_ENV OMP_NUM_THREADS=2)
# Test programs do not lie beside it.
list(APPEND SFT_MPI_TEST_ENV SFT_INSPECT=${PROJECT_BINARY_DIR}/sft-inspect)
list(APPEND SFT_UNIT_TEST_ENV SFT_INSPECT=${PROJECT_BINARY_DIR}/sft-inspect)
if(SFT_SANITIZE)
  # Open MPI never frees some of its own start-up memory, nor does LibTorch.
  list(APPEND SFT_MPI_TEST_ENV ASAN_OPTIONS=detect_leaks=0)
  list(APPEND SFT_UNIT_TEST_ENV ASAN_OPTIONS=detect_leaks=0)
endif()

# What is tested is optimised as it is shipped; the tests themselves need not be.
set(SFT_TEST_COMPILE_OPTIONS $<$<CONFIG:Release>:-O1>)

# Precompiled headers for a test of rooms that use LibTorch.
function(sft_precompile_test name)
  if("${ARGN}" MATCHES "sft::(data|ops|model|engine|optim|checkpoint|train)(;|$)")
    sft_precompile(${name})
  endif()
endfunction()

add_custom_target(sft_unit_tests)  # all of them, for the sanitizer build of tests/run

# sft_add_unit_test(NAME SOURCES ... LIBS ... [TIMEOUT seconds]): one process, label `unit`. The names of each file lie in a namespace of
# the file's name, so that several can be compiled at a time.
function(sft_add_unit_test name)
  cmake_parse_arguments(A "" "TIMEOUT" "SOURCES;LIBS" ${ARGN})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 900)
  endif()
  add_executable(${name} ${A_SOURCES})
  add_dependencies(sft_unit_tests ${name})
  add_dependencies(${name} sft-inspect)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(${name} PRIVATE ${A_LIBS} GTest::gtest GTest::gtest_main sft::compiler)
  target_compile_definitions(${name} PRIVATE SFT_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  target_compile_options(${name} PRIVATE ${SFT_TEST_COMPILE_OPTIONS})
  sft_precompile_test(${name} ${A_LIBS})
  sft_unity(${name})
  set_target_properties(${name} PROPERTIES SFT_UNCHECKED ON)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS unit TIMEOUT ${A_TIMEOUT}
    ENVIRONMENT "${SFT_UNIT_TEST_ENV}")
endfunction()

# sft_add_mpi_test(NAME SOURCES ... RANKS 1 2 3 LIBS ... [TIMEOUT seconds]): label `mpi`; sft_mpi_test_main supplies main().
function(sft_add_mpi_test name)
  cmake_parse_arguments(A "" "TIMEOUT" "SOURCES;RANKS;LIBS" ${ARGN})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 900)
  endif()
  add_executable(${name} ${A_SOURCES})
  add_dependencies(${name} sft-inspect)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(${name} PRIVATE ${A_LIBS} sft_mpi_test_main sft::compiler)
  target_compile_definitions(${name} PRIVATE SFT_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  target_compile_options(${name} PRIVATE ${SFT_TEST_COMPILE_OPTIONS})
  sft_precompile_test(${name} ${A_LIBS})
  foreach(n IN LISTS A_RANKS)
    add_test(NAME ${name}.np${n}
      COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${n} ${MPIEXEC_PREFLAGS}
              $<TARGET_FILE:${name}> ${MPIEXEC_POSTFLAGS} --expect-ranks=${n})
    set_tests_properties(${name}.np${n} PROPERTIES PROCESSORS 2 TIMEOUT ${A_TIMEOUT} LABELS mpi
      ENVIRONMENT "${SFT_MPI_TEST_ENV}")
  endforeach()
endfunction()

set(SFT_TEST_PYTHON ${SFT_VENV}/bin/python CACHE FILEPATH
    "Python with the packages of launch/requirements-full.txt, for the tests written in Python")

# sft_add_python_test(NAME SCRIPT LABELS ... [TIMEOUT seconds] [CORES n]): pytest on SCRIPT (relative to the calling folder).
# CORES 1 (default 2) for a test that keeps one core busy at most, or waits: two of these run at a time. Test beds share the machine's
# network: one at a time.
# The script finds the program in $SFT_BUILD_DIR and the sources in $SFT_SOURCE_DIR; fixtures are in tests/conftest.py,
# where a skipped test counts as a failure.
function(sft_add_python_test name script)
  cmake_parse_arguments(A "" "TIMEOUT;CORES" "LABELS" ${ARGN})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 900)
  endif()
  if(NOT A_CORES)
    set(A_CORES 2)
  endif()
  add_test(NAME ${name}
    COMMAND ${SFT_TEST_PYTHON} -m pytest -q -p no:cacheprovider ${CMAKE_CURRENT_SOURCE_DIR}/${script})
  if("testbed" IN_LIST A_LABELS)
    set_tests_properties(${name} PROPERTIES RESOURCE_LOCK testbed)
  endif()
  set_tests_properties(${name} PROPERTIES PROCESSORS ${A_CORES} TIMEOUT ${A_TIMEOUT} LABELS "${A_LABELS}"
    ENVIRONMENT "${SFT_MPI_TEST_ENV};SFT_BUILD_DIR=${PROJECT_BINARY_DIR};SFT_SOURCE_DIR=${PROJECT_SOURCE_DIR};HF_HUB_OFFLINE=1;TOKENIZERS_PARALLELISM=false;PYTHONDONTWRITEBYTECODE=1")
endfunction()
