# sft_room(NAME SOURCES ... LIBS ...): one room = one static library `sft_NAME`, alias sft::NAME.
# A room may link only to rooms above it in docs/architecture.md; LIBS says to which.
function(sft_room name)
  cmake_parse_arguments(A "" "" "SOURCES;LIBS" ${ARGN})
  add_library(sft_${name} STATIC ${A_SOURCES})
  add_library(sft::${name} ALIAS sft_${name})
  target_include_directories(sft_${name} PUBLIC ${PROJECT_SOURCE_DIR}/include)
  target_include_directories(sft_${name} PRIVATE ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(sft_${name} PRIVATE sft::compiler PUBLIC ${A_LIBS})
  if(name MATCHES "^(ops|optim|parallel)$")
    sft_precompile(sft_${name} OPENMP)
  elseif(A_LIBS MATCHES "sft::(torch|model)(;|$)")
    sft_precompile(sft_${name})
  endif()
  # Only rooms whose own loops run over tensors gain from more.
  if(NOT name MATCHES "^(ops|optim|parallel|data|base)$")
    target_compile_options(sft_${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  endif()
endfunction()
