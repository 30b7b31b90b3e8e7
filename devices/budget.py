"""How large a file may be for a device."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from edgekit.devices.predict import lookup_parameters, overhead_bytes, parameters
from edgekit.devices.profile import Device
from edgekit.models.errors import InputError
from edgekit.models.spec import ModelSpec


class FileLimit(NamedTuple):
    """The largest file, which of the device's limits sets it, and one sentence on how it follows."""

    bytes: int
    bound_by: Literal["ram", "bandwidth"]
    explanation: str


def max_file_bytes(
    device: Device, spec: ModelSpec, *, tps: float, context: int = 4096, share: float = 0.5
) -> FileLimit:
    """The largest file that leaves the device room to breathe and may decode at `tps` tokens per second.

    The smaller of (share of RAM - attention cache at `context` - scratch) and (usable bandwidth / tps). Of an untied
    input embedding a token reads one row only, so that the second limit grows by that table's part of the weights.
    Raises InputError where nothing is left or an option is out of range.
    """
    if not (math.isfinite(tps) and tps > 0):
        raise InputError(f"--tps {tps} is out of range: give a number of tokens per second above 0")
    by_ram = file_bytes_by_ram(device, spec, context=context, share=share)
    read_share = 1 - lookup_parameters(spec) / parameters(spec)
    by_bandwidth = int(device.bandwidth_bytes_per_s / tps / read_share)
    if by_ram.bytes < by_bandwidth:
        return by_ram
    looked_up = "" if read_share == 1 else f", {1 - read_share:.0%} of it an embedding table that is not read whole"
    text = (
        f"{tps:g} tokens/s at {device.bandwidth_bytes_per_s / 1e9:.1f} GB/s of {device.name}'s memory allow "
        f"{by_bandwidth / 1e6:.0f} MB{looked_up}"
    )
    return FileLimit(by_bandwidth, "bandwidth", text)


def file_bytes_by_ram(device: Device, spec: ModelSpec, *, context: int = 4096, share: float = 0.5) -> FileLimit:
    """`max_file_bytes` without the second limit, that of the bandwidth."""
    if not 0 < share <= 1:
        raise InputError(f"a share of {share} of the device's memory is out of range: give more than 0 and at most 1")
    if not 1 <= context <= spec.context:
        raise InputError(f"--context {context} is out of range: this model takes 1 to {spec.context}")
    beside = overhead_bytes(spec, context)
    left = int(share * device.ram_bytes) - beside
    if left <= 0:
        raise InputError(
            f"a context of {context} takes {beside / 1e6:.0f} MB, and {share:.0%} of {device.name}'s memory is "
            f"{share * device.ram_bytes / 1e6:.0f} MB: choose a shorter --context"
        )
    text = (
        f"{share:.0%} of {device.name}'s {device.ram_bytes / 1e9:.1f} GB, less {beside / 1e6:.0f} MB for a context "
        f"of {context} and the program, leave {left / 1e6:.0f} MB"
    )
    return FileLimit(left, "ram", text)
