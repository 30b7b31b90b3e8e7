"""A device profile: one TOML file, no code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """What is known of a device. Every figure's origin is in the profile's comments and `sources`."""

    name: str
    title: str
    isa: tuple[str, ...]  # "armv8.0", "dotprod", "i8mm", "x86-64-v3", ...
    cores: int  # the big ones
    ram_bytes: int
    bandwidth_bytes_per_s: float  # usable by decode
    sources: dict[str, str]
