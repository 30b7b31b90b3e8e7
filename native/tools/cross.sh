#!/usr/bin/env bash
# Builds the library and its test programs for AArch64 and runs them under qemu, once for each compiler that is here:
#     native/tools/cross.sh [--build-only] [gcc] [clang] [zig]
# PYTHON is the one that has cmake, ninja and ziglang, CASES the cases of each kernel, TARGETS what to build (all).
# Exit status 1 where a build or a test fails, 0 otherwise; what cannot be done here is said.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
export PATH="$(dirname "$python"):$PATH"

declare -A toolchain=([gcc]=aarch64-linux-gnu [clang]=aarch64-clang [zig]=aarch64-musl-zig)
has() {
  case $1 in
  gcc) command -v aarch64-linux-gnu-gcc ;;
  clang) command -v clang-19 && command -v aarch64-linux-gnu-gcc ;;
  zig) "$python" -c "import ziglang" 2>&1 ;;
  esac >/dev/null
}

run=1
if [ "${1:-}" = --build-only ]; then
  run=0
  shift
fi
failed=0
[ $# -gt 0 ] || set -- gcc clang zig
for name; do
  if ! has "$name"; then
    echo "$name: skipped, it is not installed"
    continue
  fi
  build=build/cross/$name
  options=(-DCMAKE_EXE_LINKER_FLAGS=-static -DEDGEKIT_TESTS=ON)
  if [ "$name" = zig ]; then options+=(-DZIG_PYTHON="$python"); fi
  cmake -S native -B "$build" -G Ninja -DCMAKE_TOOLCHAIN_FILE="$PWD/native/cmake/${toolchain[$name]}.cmake" \
    "${options[@]}" >/dev/null
  if ! cmake --build "$build" -- --quiet ${TARGETS:-}; then
    echo "$name: FAILED to build"
    failed=1
    continue
  fi
  echo "$name: built $build"
  if [ $run = 0 ]; then continue; fi
  if ! command -v qemu-aarch64 >/dev/null; then
    echo "$name: not run, qemu-aarch64 is not installed"
    continue
  fi
  for cpu in cortex-a72 cortex-a76 max; do
    for program in "$build"/*_test; do
      if qemu-aarch64 -cpu "$cpu" "$program" "${CASES:-20}" >"$build/log" 2>&1; then
        echo "$name: $(basename "$program") passed on $cpu"
      else
        cat "$build/log"
        echo "$name: $(basename "$program") FAILED on $cpu"
        failed=1
      fi
    done
  done
done
exit $failed
