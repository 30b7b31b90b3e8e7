# Zig's Clang and musl (PyPI: ziglang): static executables that run on any AArch64 Linux, Android's shell included.
#     cmake -S native -B build/zig -DCMAKE_TOOLCHAIN_FILE=native/cmake/aarch64-musl-zig.cmake -DZIG_PYTHON=.venv/bin/python
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(ZIG_PYTHON python3 CACHE STRING "The Python that has the package ziglang")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ZIG_PYTHON)
set(CMAKE_C_COMPILER ${ZIG_PYTHON} -m ziglang cc -target aarch64-linux-musl)
set(CMAKE_C_ARCHIVE_CREATE "${ZIG_PYTHON} -m ziglang ar qc <TARGET> <LINK_FLAGS> <OBJECTS>")
set(CMAKE_C_ARCHIVE_FINISH "${ZIG_PYTHON} -m ziglang ranlib <TARGET>")
set(EDGEKIT_ZIG ON)
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
