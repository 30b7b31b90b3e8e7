# edgekit-bench: bench_parts is all of it but main.c, for the tests.
file(GLOB parts CONFIGURE_DEPENDS tools/bench/*.c)
list(FILTER parts EXCLUDE REGEX main\\.c)
add_library(bench_parts STATIC ${parts})
target_include_directories(bench_parts PUBLIC tools/bench PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/generated)
target_compile_definitions(bench_parts PUBLIC _GNU_SOURCE) # for affinity, and system calls of Linux
target_compile_options(bench_parts PRIVATE -O2 -Wall -Wextra)
target_link_libraries(bench_parts PUBLIC edgekit)
add_executable(edgekit-bench tools/bench/main.c)
target_compile_options(edgekit-bench PRIVATE -O2 -Wall -Wextra)
target_link_libraries(edgekit-bench PRIVATE bench_parts)

set(version unknown)
if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/../pyproject.toml)
  file(STRINGS ../pyproject.toml version REGEX "^version = " LIMIT_COUNT 1)
  string(REGEX MATCH "[0-9][0-9.]*" version "${version}")
elseif(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/VERSION) # as a wheel has it
  file(STRINGS VERSION version LIMIT_COUNT 1)
endif()
string(REPLACE ";" " " flags "${CMAKE_C_FLAGS};${EDGEKIT_C_FLAGS};${CMAKE_EXE_LINKER_FLAGS}")
string(STRIP "${flags}" flags)
string(REPLACE ";" " " levels "${EDGEKIT_LEVELS}")
set(compiler "${CMAKE_C_COMPILER_ID} ${CMAKE_C_COMPILER_VERSION}")
if(EDGEKIT_ZIG)
  string(APPEND compiler " (zig, musl)")
endif()
add_custom_target(build_info BYPRODUCTS ${CMAKE_CURRENT_BINARY_DIR}/generated/build_info.h VERBATIM
  COMMAND ${CMAKE_COMMAND} -DOUT=${CMAKE_CURRENT_BINARY_DIR}/generated/build_info.h
          -DSOURCE=${CMAKE_CURRENT_SOURCE_DIR} -DVERSION=${version} -DCOMPILER=${compiler} -DFLAGS=${flags}
          -DLEVELS=${levels} -P ${CMAKE_CURRENT_SOURCE_DIR}/cmake/build_info.cmake)
add_dependencies(bench_parts build_info)
