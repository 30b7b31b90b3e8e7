"""Facts about the machine that this process runs on."""

from __future__ import annotations

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from edgekit.models.errors import InputError
from edgekit.runtimes.session import available_cores

_ARRAY_BYTES = 256 << 20  # in total; several times any last-level cache that a small machine has
_ROUNDS = 4


def ram_bytes() -> int:
    """The physical memory. Raises InputError where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError) as error:
        raise InputError("this system does not tell its memory size: name another device than 'host'") from error


@lru_cache(maxsize=1)
def measure_bandwidth() -> float:
    """Bytes per second that all cores together read from memory: the best of four passes over 256 MB."""
    cores = available_cores()
    arrays = [np.ones(_ARRAY_BYTES // cores // 8, np.uint64) for _ in range(cores)]
    total = sum(array.nbytes for array in arrays)
    best = float("inf")
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, arrays))  # vectorised, and without the interpreter's lock
            best = min(best, time.perf_counter() - start)
    return total / best


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
