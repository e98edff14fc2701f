# sft_unity(TARGET): see SFT_UNITY_BUILD.
function(sft_unity target)
  if(SFT_UNITY_BUILD)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
    # A type of the file's own within one that its header declares is right in a file that is compiled once.
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
  endif()
endfunction()

# sft_room(NAME SOURCES ... LIBS ...): one room = one static library `sft_NAME`, alias sft::NAME.
# A room may link only to rooms above it in docs/architecture.md; LIBS says to which.
function(sft_room name)
  cmake_parse_arguments(A "" "" "SOURCES;LIBS" ${ARGN})
  add_library(sft_${name} STATIC ${A_SOURCES})
  add_library(sft::${name} ALIAS sft_${name})
  target_include_directories(sft_${name} PUBLIC ${PROJECT_SOURCE_DIR}/include)
  target_include_directories(sft_${name} PRIVATE ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(sft_${name} PRIVATE sft::compiler PUBLIC ${A_LIBS})
  if(A_LIBS MATCHES "sft::(torch|model)(;|$)")
    sft_precompile(sft_${name})
  endif()
  sft_unity(sft_${name})
  # Only rooms whose own loops run over tensors gain from more.
  if(NOT name MATCHES "^(ops|optim|parallel|data|base)$")
    target_compile_options(sft_${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  endif()
endfunction()

# sft_loops(ROOM SOURCES ... OPTIONS ...): files of a room that are compiled with these options besides its own.
function(sft_loops room)
  cmake_parse_arguments(A "" "" "SOURCES;OPTIONS" ${ARGN})
  add_library(sft_${room}_loops OBJECT ${A_SOURCES})
  foreach(property INCLUDE_DIRECTORIES LINK_LIBRARIES COMPILE_OPTIONS)
    set_property(TARGET sft_${room}_loops PROPERTY ${property} $<TARGET_PROPERTY:sft_${room},${property}>)
  endforeach()
  target_compile_options(sft_${room}_loops PRIVATE ${A_OPTIONS})
  sft_unity(sft_${room}_loops)
  target_sources(sft_${room} PRIVATE $<TARGET_OBJECTS:sft_${room}_loops>)
endfunction()
