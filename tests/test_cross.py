"""The library for AArch64 from Clang and Zig (test_native.py has GCC): it builds, is right, and loads anywhere."""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[1] / "native"
BUILD = NATIVE.parent / "build" / "cross"
PAGE_BYTES = 16384
LOAD = 1  # PT_LOAD of the ELF specification
# The kernels, which compilers may translate each in their own way; `make cross` runs all programs.
KERNEL_TESTS = tuple(
    f"{name}_test"
    for name in ("attention_kernels", "dispatch", "elementwise", "levels", "matmul", "quantize", "repack")
)
CASES = "3"


def missing(compiler: str) -> str | None:
    """What keeps that compiler from being tried here."""
    if compiler == "zig":
        return None if importlib.util.find_spec("ziglang") else "the Python package ziglang"
    return next((name for name in ("clang-19", "aarch64-linux-gnu-gcc") if shutil.which(name) is None), None)


@pytest.fixture(scope="module", params=["clang", "zig"])
def programs(request: pytest.FixtureRequest) -> list[Path]:
    """The kernels' tests, linked statically."""
    lacking = missing(request.param)
    if lacking:
        pytest.skip(f"{lacking} is not installed")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = [NATIVE / "tools" / "cross.sh", "--build-only", request.param]
    environment = os.environ | {"PATH": path, "PYTHON": sys.executable, "TARGETS": " ".join(KERNEL_TESTS)}
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [BUILD / request.param / name for name in KERNEL_TESTS]


def load_segments(elf: bytes) -> list[tuple[int, int, int]]:
    """(file offset, address, alignment) of each part that is mapped."""
    assert elf[:5] == b"\x7fELF\x02"
    start, size, count = (*struct.unpack_from("<Q", elf, 0x20), *struct.unpack_from("<HH", elf, 0x36))[:3]
    headers = [struct.unpack_from("<IIQQQQQQ", elf, start + i * size) for i in range(count)]
    return [(offset, address, align) for kind, _, offset, address, _, _, _, align in headers if kind == LOAD]


def test_they_load_where_pages_have_16_kib(programs: list[Path]) -> None:
    for program in programs:
        for offset, address, align in load_segments(program.read_bytes()):
            assert align >= PAGE_BYTES and (address - offset) % PAGE_BYTES == 0, program


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed (Debian: qemu-user)")
@pytest.mark.parametrize("processor", ["cortex-a72", "max"])
def test_they_are_right(programs: list[Path], processor: str) -> None:
    for program in programs:
        command = ["qemu-aarch64", "-cpu", processor, program, CASES]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{program}\n{done.stdout}\n{done.stderr}"
