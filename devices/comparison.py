"""One benchmark against another: how much faster or slower B is than A, and whether a gate lets that pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.devices.result import BenchResult, Verdict

SCHEMA_VERSION = 1

Outcome = Literal["regression", "no regression", "inconclusive"]


@dataclass(frozen=True)
class Ratio:
    """B over A of one figure: the median over pairs and a 95 % bootstrap interval of it.

    `n` is the number of pairs, or of the smaller side's repetitions where nothing is paired.
    """

    median: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Ratios:
    """Of each figure. B is the slower one where a time's ratio is above 1, or a rate's below."""

    load_s: Ratio
    ttft_s: Ratio
    prefill_tps: Ratio
    decode_tps: Ratio


@dataclass(frozen=True)
class Comparison:
    """Two benchmarks side by side; `status` and `reasons` say how far their ratios can be trusted."""

    run_id: str
    status: Verdict
    reasons: tuple[str, ...]
    paired: bool  # interleaved in one run; else two results that were stored
    a: BenchResult
    b: BenchResult
    ratios: Ratios
    gate: float | None  # the slowdown that is too much, as 0.05; None: not asked
    outcome: Outcome | None  # None where there is no gate
    schema_version: int = SCHEMA_VERSION
