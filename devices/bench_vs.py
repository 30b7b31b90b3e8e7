"""Two models measured in turns, here or on a device, and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.devices.bench import bench_models
from edgekit.devices.bench_device import bench_models_on
from edgekit.devices.comparison import Comparison, compare_in_turns
from edgekit.devices.target import Target

# Pairs. On two cores, the interval of 21 goes 3 % to both sides where little else runs, and 8 % where others want both.
REPS = 21


def bench_vs(
    a: Path, b: Path, *, target: Target | str | None = None, gate: float | None = None, reps: int = REPS, **options: Any
) -> Comparison:
    """How B stands to A; the other options are those of `bench_models`, or with a target `bench_models_on`."""
    if target is None:
        results = bench_models([a, b], reps=reps, **options)
    else:
        results = bench_models_on([a, b], target, reps=reps, as_evidence=gate is not None, **options)
    return compare_in_turns(results[0], results[1], gate)
