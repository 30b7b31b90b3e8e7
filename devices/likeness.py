"""In what two benchmarks differ beside their figures, and whether that lets them be compared."""

from __future__ import annotations

from dataclasses import asdict

from edgekit.devices.result import BenchResult

RAM = 0.1  # a kernel keeps a part of the memory to itself, and not each the same


def differences(a: BenchResult, b: BenchResult) -> tuple[str, ...]:
    """Which of model, build, config and device are not the same."""
    unlike = {
        "model": a.model.sha256 != b.model.sha256,
        "build": a.build != b.build,
        "config": bool(_unlike(_config(a), _config(b))),
        "device": bool(_unlike_devices(a, b)),
    }
    return tuple(name for name, is_unlike in unlike.items() if is_unlike)


def unlikenesses(a: BenchResult, b: BenchResult) -> list[str]:
    """Where a ratio would not be the models' or the builds': in device, config or emulation."""
    emulated = _unlike({"emulated": a.emulated}, {"emulated": b.emulated})
    return [*_unlike_devices(a, b), *_unlike(_config(a), _config(b)), *emulated]


def _config(result: BenchResult) -> dict[str, object]:
    """All of it but the number of repetitions, which makes figures better known and not different."""
    return {name: value for name, value in asdict(result.config).items() if name != "reps"}


def _unlike_devices(a: BenchResult, b: BenchResult) -> list[str]:
    """What one of both does not tell is not held against it; a newer kernel or another name makes no other device."""
    ours, theirs = _device(a), _device(b)
    known = [name for name in ours if ours[name] is not None and theirs[name] is not None]
    found = _unlike({name: ours[name] for name in known}, theirs)
    x, y = a.machine.ram_bytes, b.machine.ram_bytes
    if abs(x - y) > RAM * max(x, y):
        found.append(f"memory {x / 1e9:.1f} GB in A and {y / 1e9:.1f} GB in B")
    return found


def _device(result: BenchResult) -> dict[str, object]:
    machine = result.machine
    return {
        "model": None if result.device is None else result.device.model,
        "processor": machine.cpu,
        "instruction sets": machine.isa,
        "cores": machine.cores,
        "page size": machine.page_bytes,
        "system": machine.os,
    }


def _unlike(a: dict[str, object], b: dict[str, object]) -> list[str]:
    return [f"{name} {_text(a[name])} in A and {_text(b[name])} in B" for name in a if a[name] != b[name]]


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "not set" if value is None else str(value)
