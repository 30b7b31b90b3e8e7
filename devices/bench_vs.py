"""Two models measured in turns, here or on a device, and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.devices.bench import bench_models
from edgekit.devices.bench_device import bench_models_on
from edgekit.devices.comparison import Comparison, compare_in_turns
from edgekit.devices.target import Target

# On two cores, the interval of 21 pairs goes 3 % to both sides where little else runs, and 8 % where others want both.
FEWEST_PAIRS, MOST_PAIRS = 21, 101
_WEIGHT_BYTES = 75e9  # that decoding reads on each side: some ten seconds, as what else runs comes and goes


def pairs_for(file_bytes: int, gen_tokens: int) -> int:
    """The default number of pairs: repetitions of a small file are short, and more of them are needed for the same."""
    return int(min(MOST_PAIRS, max(FEWEST_PAIRS, _WEIGHT_BYTES / max(1, file_bytes * gen_tokens))))


def bench_vs(
    a: Path,
    b: Path,
    *,
    target: Target | str | None = None,
    gate: float | None = None,
    gen_tokens: int = 64,
    reps: int | None = None,
    **options: Any,
) -> Comparison:
    """How B stands to A; the other options are those of `bench_models`, or with a target `bench_models_on`.

    `reps`: None for as many as `pairs_for` the smaller of the two.
    """
    if reps is None:
        reps = pairs_for(min(_bytes(a), _bytes(b)), gen_tokens)
    options |= {"gen_tokens": gen_tokens, "reps": reps}
    if target is None:
        results = bench_models([a, b], **options)
    else:
        results = bench_models_on([a, b], target, as_evidence=gate is not None, **options)
    return compare_in_turns(results[0], results[1], gate)


def _bytes(model: Path) -> int:
    return sum(file.stat().st_size for file in (model.glob("model.onnx*") if model.is_dir() else [model]))
