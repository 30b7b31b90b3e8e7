"""One benchmark against another: how much faster or slower B is than A, and whether a gate lets that pass.

Two models that were run in turns are compared pair by pair: what slows a machine down for a while slows down both of a
pair. Results that were stored are compared by their medians. Decoding counts by the lower quartile of the times between
two tokens in a repetition, which other programs that take the processor now and then do not move; nor does what slows
down single tokens alone, which the medians beside it show.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgekit.devices.interval import FEWEST, resampled_medians, tail
from edgekit.devices.likeness import differences, unlikenesses
from edgekit.devices.result import BenchResult, Sample, Verdict
from edgekit.devices.verdict import noise_doubts
from edgekit.models.errors import InputError, InvalidResultError

SCHEMA_VERSION = 1

GATED = ("prefill_tps", "decode_tps")  # the figures that a gate looks at

Outcome = Literal["regression", "no regression", "inconclusive"]


@dataclass(frozen=True)
class Ratio:
    """B over A of one figure: the median over pairs and a 95 % bootstrap interval of it.

    `n` is the number of pairs, or of the smaller side's repetitions where nothing is paired; too few for an interval
    leave its ends NaN.
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
    differs: tuple[str, ...] = ()  # of "model", "build", "config" and "device"
    schema_version: int = SCHEMA_VERSION


def compare_in_turns(a: BenchResult, b: BenchResult, gate: float | None = None) -> Comparison:
    """Two results of one run, repetition by repetition."""
    return _comparison(a, b, gate, _ratios(a, b, paired_ratio), _doubts(a, b, gate), paired=True)


def compare_stored(
    a: BenchResult,
    b: BenchResult,
    gate: float | None = None,
    *,
    force: bool = False,
    names: tuple[str, str] = ("A", "B"),
) -> Comparison:
    """Two results of runs apart: the intervals do not know what else has changed in between.

    `names` are for errors. Raises InputError where device, config or emulation differ, unless `force`, which makes them
    reasons; and InvalidResultError for a result that is invalid, or with a gate emulated.
    """
    for name, result in zip(names, (a, b), strict=True):
        if result.status == "invalid":
            raise InvalidResultError(f"{name} is an invalid result ({'; '.join(result.reasons)}): measure it again")
        if gate is not None and result.emulated:
            refuse_emulated(name)
    unlike = unlikenesses(a, b)
    if unlike and not force:
        raise InputError(
            f"{names[0]} and {names[1]} are unlike, {'; '.join(unlike)}: measure both alike, or add --force"
        )
    return _comparison(a, b, gate, _ratios(a, b, unpaired_ratio), [*_doubts(a, b, None), *unlike], paired=False)


def refuse_emulated(name: str) -> NoReturn:
    """The error for a gate on times that say nothing of a real device."""
    raise InvalidResultError(f"{name} is emulated, and its times are no evidence: drop --gate or take a real device")


def paired_ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """B over A, the n-th figure of each a pair; a pair with a figure that is not finite and positive is left out."""
    pairs = [math.log(y / x) for x, y in zip(a, b, strict=False) if _usable(x) and _usable(y)]
    return _ratio(np.asarray(pairs), resampled_medians(np.asarray(pairs), 0), len(pairs))


def unpaired_ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """The median of B over that of A, each resampled for itself."""
    x, y = (np.log([value for value in values if _usable(value)]) for values in (a, b))
    count = min(x.size, y.size)
    if not count:
        return _ratio(np.empty(0), np.empty(0), 0)
    ours, theirs = resampled_medians(x, 1), resampled_medians(y, 0)
    resamples = min(ours.size, theirs.size)
    return _ratio(np.asarray([np.median(y) - np.median(x)]), theirs[:resamples] - ours[:resamples], count)


def _usable(figure: float) -> bool:
    return math.isfinite(figure) and figure > 0


def _ratio(logs: NDArray[np.float64], medians: NDArray[np.float64], n: int) -> Ratio:
    """In logarithms, so that A over B is one over B over A."""
    median = math.exp(np.median(logs)) if logs.size else math.nan
    if n < FEWEST:
        return Ratio(median, math.nan, math.nan, n)
    low, high = np.exp(np.quantile(medians, [tail(n), 1 - tail(n)]))
    return Ratio(median, float(low), float(high), n)


_FIGURES: dict[str, Callable[[Sample], float]] = {
    "load_s": lambda sample: sample.load_s,
    "ttft_s": lambda sample: sample.ttft_s,
    "prefill_tps": lambda sample: sample.prefill_tps,
    "decode_tps": lambda sample: steady_rate(sample.inter_token_s),
}


def steady_rate(steps: Sequence[float]) -> float:
    """Tokens per second by the lower quartile of the times between tokens; NaN where there is none."""
    typical = float(np.quantile(steps, 0.25)) if steps else 0.0
    return 1 / typical if _usable(typical) else math.nan


def _ratios(a: BenchResult, b: BenchResult, ratio: Callable[[Sequence[float], Sequence[float]], Ratio]) -> Ratios:
    return Ratios(
        **{
            name: ratio([figure(sample) for sample in a.samples], [figure(sample) for sample in b.samples])
            for name, figure in _FIGURES.items()
        }
    )


def gate_outcome(ratio: Ratio, gate: float) -> Outcome:
    """What a gate says of a rate: B may be slower than A by less than `gate`, a share.

    A regression: the interval excludes 1, by a third of the median's change at least, and that change has reached the
    threshold. Without the third, about one comparison in 20 of two equal models would be a false alarm on a machine so
    noisy that the threshold stops none. No regression: the whole interval is above the threshold. All else is
    inconclusive.
    """
    least = 1 - gate
    if ratio.low > least:
        return "no regression"
    return "regression" if ratio.median <= least and ratio.high**3 <= ratio.median else "inconclusive"


def _outcome(ratios: Ratios, gate: float) -> Outcome:
    found = [gate_outcome(getattr(ratios, name), gate) for name in GATED]
    ranked: tuple[Outcome, ...] = ("regression", "inconclusive", "no regression")
    return next(outcome for outcome in ranked if outcome in found)


def _comparison(
    a: BenchResult, b: BenchResult, gate: float | None, ratios: Ratios, doubts: list[str], *, paired: bool
) -> Comparison:
    outcome = None if gate is None else _outcome(ratios, gate)
    few = min(getattr(ratios, name).n for name in GATED)
    if few < FEWEST:
        doubts = [*doubts, f"{few} repetitions are too few for an interval: raise --reps to {FEWEST} or more"]
    elif gate is not None and outcome == "inconclusive":
        doubts = [
            *doubts,
            f"the intervals are too wide to tell a slowdown of {100 * gate:.3g}% from none: raise --reps",
        ]
    invalid = "invalid" in (a.status, b.status)
    return Comparison(
        run_id=uuid.uuid4().hex,
        status="invalid" if invalid else "degraded" if doubts else "valid",
        reasons=tuple(doubts),
        paired=paired,
        a=a,
        b=b,
        ratios=ratios,
        gate=gate,
        outcome="inconclusive" if invalid and gate is not None else outcome,
        differs=differences(a, b),
    )


def _doubts(a: BenchResult, b: BenchResult, gate: float | None) -> list[str]:
    """What there was against each side, once where it is the same.

    With a gate, what noise there was is left out: whether it was too much is what the intervals say.
    """
    sides = []
    for result in (a, b):
        noise = () if gate is None else noise_doubts(result.samples, result.summary, result.machine)
        sides.append([reason for reason in result.reasons if reason not in noise])
    ours, theirs = sides
    both = [f"A and B: {reason}" for reason in ours if reason in theirs]
    alone = [f"A: {reason}" for reason in ours if reason not in theirs]
    return [*both, *alone, *(f"B: {reason}" for reason in theirs if reason not in ours)]
