"""A device profile: one TOML file, no code."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.devices import host
from edgekit.models.errors import InputError
from edgekit.runtimes.session import available_cores

_PROFILES = Path(__file__).parent / "profiles"
_REQUIRED = ("title", "isa", "cores", "ram_bytes", "bandwidth_bytes_per_s", "sources")
_COMPUTE = ("clock_hz", "cycles_per_block")  # both or neither
# How a benchmark reaches the device and runs there: devices/target.py reads these.
CONNECTION = (
    "transport", "serial", "port", "user", "identity_file", "known_hosts_file", "workdir", "runner_prefix",
    "abi", "required_isa", "affinity", "threads", "cooldown", "env", "emulated", "tags",
)  # fmt: skip
_KEYS = frozenset((*_REQUIRED, "llama_cpp_bytes_per_s", *_COMPUTE, "host", *CONNECTION))  # host: true, or a name


@dataclass(frozen=True)
class Device:
    """What is known of a device. `sources` says, for each figure, where it comes from or that it is an estimate."""

    name: str
    title: str
    isa: tuple[str, ...]  # "armv8.0", "dotprod", "i8mm", ...
    cores: int  # the big ones
    ram_bytes: int
    bandwidth_bytes_per_s: float  # that decoding can use
    sources: Mapping[str, str]
    llama_cpp_bytes_per_s: float | None = None  # that llama.cpp's decoding was seen to reach; less where it computes
    clock_hz: float | None = None
    cycles_per_block: Mapping[str, float] = field(default_factory=dict)  # by type: 32 weights times one token, one core


def device_names() -> tuple[str, ...]:
    """The profiles that come with edgekit, in alphabetical order."""
    return tuple(sorted(path.stem for path in _PROFILES.glob("*.toml")))


def is_own(path: Path) -> bool:
    """Whether the file is one of those that come with edgekit."""
    return path.parent == _PROFILES


def load_device(name_or_path: str | Path) -> Device:
    """A profile by name, or from a TOML file of one's own.

    `host` reads this machine's memory and cores and measures its bandwidth. Raises InputError for an unknown name, and
    for a file that is not TOML, misses a key, has an unknown one, or a value of the wrong type or out of range.
    """
    name, table, path = read_profile(name_or_path)
    return _host(name, table, path) if table.get("host") is True else device_of(name, table, path)


def load_host(threads: int) -> Device:
    """This machine, with the bandwidth that so many threads reach."""
    return _host(*read_profile("host"), threads)


def read_profile(name_or_path: str | Path) -> tuple[str, dict[str, Any], Path]:
    """A profile's name, its table as it stands in the file, and the file; InputError where there is no such TOML."""
    name = str(name_or_path)
    path = _PROFILES / f"{name}.toml" if name in device_names() else Path(name_or_path)
    if path.suffix != ".toml" or not path.is_file():
        raise InputError(
            f"there is no device {name!r}: choose one of {', '.join(device_names())} or give a profile's .toml file"
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a TOML file ({error}): mend it") from error
    return path.stem, table, path


def device_of(name: str, table: Mapping[str, Any], path: Path) -> Device:
    """The device of a profile's table; `load_device`'s InputErrors name `path`."""
    _check_keys(table, _REQUIRED, path)
    isa, sources = table["isa"], table["sources"]
    if not (isinstance(isa, list) and isa and all(isinstance(item, str) for item in isa)):
        raise InputError(f'{path}: isa must be a list of names such as ["armv8.0"]')
    if not (isinstance(sources, dict) and all(isinstance(text, str) for text in sources.values())):
        raise InputError(f"{path}: sources must be a table of texts, one for each figure")
    unsourced = {"cores", "ram_bytes", "bandwidth_bytes_per_s"} - sources.keys()
    if unsourced:
        raise InputError(f"{path}: [sources] says nothing of {', '.join(sorted(unsourced))}: add where it comes from")
    reached = "llama_cpp_bytes_per_s"
    clock, cycles = _compute(table, path)
    return Device(
        name=name,
        title=_text(table, "title", path),
        isa=tuple(isa),
        cores=int(_number(table, "cores", 1, 1024, path, whole=True)),
        ram_bytes=int(_number(table, "ram_bytes", 16e6, 1e14, path, whole=True)),
        bandwidth_bytes_per_s=_number(table, "bandwidth_bytes_per_s", 1e7, 1e14, path),
        sources=dict(sources),
        llama_cpp_bytes_per_s=_number(table, reached, 1e6, 1e14, path) if reached in table else None,
        clock_hz=clock,
        cycles_per_block=cycles,
    )


def _compute(table: Mapping[str, Any], path: Path) -> tuple[float | None, dict[str, float]]:
    """The clock and the cycles by type; nothing where the profile has neither."""
    if not any(key in table for key in _COMPUTE):
        return None, {}
    _check_keys(table, _COMPUTE, path)
    cycles = table["cycles_per_block"]
    if not (isinstance(cycles, dict) and cycles):
        raise InputError(f"{path}: cycles_per_block must be a table of numbers, one for each type")
    unsourced = set(_COMPUTE) - table["sources"].keys()
    if unsourced:
        raise InputError(f"{path}: [sources] says nothing of {', '.join(sorted(unsourced))}: add where it comes from")
    return _number(table, "clock_hz", 1e6, 1e11, path), {
        name: _number(cycles, name, 0.01, 1e4, path) for name in cycles
    }


def _host(name: str, table: Mapping[str, Any], path: Path, threads: int | None = None) -> Device:
    _check_keys(table, ("title",), path)
    readers = "all big cores" if threads is None else f"{threads} threads"
    return Device(
        name=name,
        title=_text(table, "title", path),
        isa=host.isa(),
        cores=available_cores(),
        ram_bytes=host.ram_bytes(),
        bandwidth_bytes_per_s=host.measure_bandwidth(threads),
        sources={
            "isa": "read from this machine",
            "cores": "read from this machine: those that this process may run on",
            "ram_bytes": "read from this machine",
            "bandwidth_bytes_per_s": f"measured just now: {readers} reading 256 MiB, the best of four passes",
        },
    )


def _check_keys(table: Mapping[str, Any], required: tuple[str, ...], path: Path) -> None:
    for key in required:
        if key not in table:
            fitted = key == "bandwidth_bytes_per_s"
            way = "add it, or let edgekit devices calibrate fit it to a benchmark" if fitted else "add it"
            raise InputError(f"{path} has no {key}: {way}")
    unknown = table.keys() - _KEYS
    if unknown:
        raise InputError(f"{path} has unknown keys: {', '.join(sorted(unknown))}: known are {', '.join(sorted(_KEYS))}")


def _text(table: Mapping[str, Any], key: str, path: Path) -> str:
    value = table[key]
    if not isinstance(value, str) or not value:
        raise InputError(f"{path}: {key} must be a text")
    return value


def _number(table: Mapping[str, Any], key: str, low: float, high: float, path: Path, *, whole: bool = False) -> float:
    value = table[key]
    kind = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value) or not low <= value <= high:
        raise InputError(f"{path}: {key} must be a{' whole' if whole else ''} number from {low:g} to {high:g}")
    return float(value)
