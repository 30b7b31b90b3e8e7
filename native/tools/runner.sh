#!/usr/bin/env bash
# Builds edgekit-bench, static, for the devices that it runs on:
#     native/tools/runner.sh [--with gcc|zig] [aarch64] [x86_64]
# makes build/runner/edgekit-bench-{aarch64,x86_64}: with zig where the Python package ziglang is, else with GCC. PYTHON
# is the one that has cmake, ninja and ziglang. Exit status 1 where one cannot be built; the others are built all the same.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
export PATH="$(dirname "$python"):$PATH"

compiler=
if [ "${1:-}" = --with ]; then
  compiler=$2
  shift 2
elif "$python" -c "import ziglang" 2>/dev/null; then
  compiler=zig
else
  compiler=gcc
fi

failed=0
[ $# -gt 0 ] || set -- aarch64 x86_64
for arch; do
  build=build/runner/$compiler-$arch
  options=(-DEDGEKIT_RUNNER=ON -DCMAKE_EXE_LINKER_FLAGS="-static -s")
  if [ "$compiler" = zig ]; then
    options+=(-DCMAKE_TOOLCHAIN_FILE="$PWD/native/cmake/$arch-musl-zig.cmake" -DZIG_PYTHON="$python")
  elif [ "$arch" != "$(uname -m)" ]; then
    if ! command -v "$arch-linux-gnu-gcc" >/dev/null; then
      echo "$arch: there is neither $arch-linux-gnu-gcc nor, in $python, the package ziglang: install one of them"
      failed=1
      continue
    fi
    options+=(-DCMAKE_TOOLCHAIN_FILE="$PWD/native/cmake/$arch-linux-gnu.cmake")
  fi
  cmake -S native -B "$build" -G Ninja "${options[@]}" >/dev/null
  if cmake --build "$build" -- --quiet ${JOBS:+-j "$JOBS"} edgekit-bench; then
    cp "$build/edgekit-bench" "build/runner/.edgekit-bench-$arch"
    mv "build/runner/.edgekit-bench-$arch" "build/runner/edgekit-bench-$arch" # a whole one at all times
    echo "$arch: built build/runner/edgekit-bench-$arch with $compiler"
  else
    echo "$arch: FAILED to build with $compiler"
    failed=1
  fi
done
exit $failed
