"""Facts about the machine that this process runs on."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path

from edgekit import _native
from edgekit.models.errors import InputError

_MEBIBYTES = 256  # several times any last-level cache that a small machine has
_PASSES = 4


def ram_bytes() -> int:
    """The physical memory. Raises InputError where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError) as error:
        raise InputError("this system does not tell its memory size: name another device than 'host'") from error


def measure_bandwidth(threads: int | None = None) -> float:
    """Bytes per second that so many threads read from memory: the best of four passes over 256 MiB, once a process.

    None: one thread for each big core.
    """
    return _bandwidth(threads)


@lru_cache
def _bandwidth(threads: int | None) -> float:
    return max(bandwidth_passes(_PASSES, threads))


def bandwidth_passes(passes: int, threads: int | None = None) -> list[float]:
    """Bytes per second of each of several passes over 256 MiB; `threads` None: one for each big core."""
    return [(_MEBIBYTES << 20) / seconds for seconds in _native.read_passes(_MEBIBYTES, passes, threads or 0)]


def isa() -> tuple[str, ...]:
    """The machine's architecture and, where Linux lists them, those of its extensions that kernels choose between."""
    flags = set(_cpu_fields("flags") or _cpu_fields("Features"))
    known = {
        "avx2": "avx2",
        "avx_vnni": "avx-vnni",
        "avx512_vnni": "avx512-vnni",
        "avx512_bf16": "avx512-bf16",
        "asimddp": "dotprod",
        "asimdhp": "fp16",
        "i8mm": "i8mm",
    }
    return (platform.machine(), *(name for flag, name in known.items() if flag in flags))


def cpu_model() -> str | None:
    """The processor's name where the system tells it."""
    words = _cpu_fields("model name") or _cpu_fields("Model")
    return " ".join(words) or platform.processor() or None


def _cpu_fields(key: str) -> list[str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return []
    for line in path.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.split()
    return []
