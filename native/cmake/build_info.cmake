# cmake -DOUT=FILE -DSOURCE=DIR -DVERSION=... -DCOMPILER=... -DFLAGS=... -DLEVELS="scalar avx2" -P build_info.cmake
# Writes what a program was built from; at every build, as the commit changes without CMakeLists.txt.
set(commit "")
find_program(GIT git)
if(GIT AND EXISTS ${SOURCE}/../.git) # not that of a project whose virtual environment has the sources
  execute_process(COMMAND ${GIT} -C ${SOURCE} describe --always --abbrev=12 --exclude=* --dirty
                  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
string(REPLACE " " "\", \"" levels "${LEVELS}")
set(text "#define BUILD_VERSION \"${VERSION}\"
#define BUILD_GIT \"${commit}\"
#define BUILD_COMPILER \"${COMPILER}\"
#define BUILD_FLAGS \"${FLAGS}\"
#define BUILD_LEVELS \"${levels}\"
")
if(EXISTS ${OUT})
  file(READ ${OUT} before)
endif()
if(NOT text STREQUAL "${before}")
  file(WRITE ${OUT} "${text}")
endif()
