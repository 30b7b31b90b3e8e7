"""A profile's usable bandwidth and compute, fitted to what benchmarks measured on the device.

The model is `predict_run`'s, turned round: seconds per token = bytes read / bandwidth + the sum over the types of
weights * cycles. It is linear in 1 / bandwidth and in the cycles, and the weighted least squares that are not negative
are found exactly, by trying each set of figures that may be above zero: there are few.

What the results cannot tell stays as the profile has it. The bytes that a token reads are the sum of its types', so
that one type's cycles always have to be kept: those of the widest, whose arithmetic hides best behind its reading.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.devices.predict import BLOCK, predict_run, weight_counts
from edgekit.devices.profile import Device, device_of, read_profile
from edgekit.devices.result import BenchResult, Reads
from edgekit.models.errors import InputError

LEAST_CYCLES = 0.01  # what a profile takes as next to nothing
_SHARE = 0.02  # of the bytes read: a type below it in every result tells nothing of itself
_INDEPENDENT = 0.05  # the least singular value of columns of length 1: below it, noise would be told twentyfold
_RAM = 0.15  # of its memory a device may keep back
_OFF = 0.10  # of the measured time: more is worth a word
_TOLD_APART = ("dotprod", "i8mm")  # extensions that a profile of the device names where it has them

FloatVector = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """Decode of one result, measured, and as the profile predicts it before and after the fit."""

    run_id: str
    model: str
    measured_tps: float
    before_tps: float
    after_tps: float


@dataclass(frozen=True)
class Calibration:
    """The device with its new figures; `fitted` names them, as "bandwidth_bytes_per_s" or a type's name."""

    device: Device
    fitted: tuple[str, ...]
    agreement: tuple[Agreement, ...]
    notes: tuple[str, ...]


def calibrate(device: Device, named: Mapping[str, BenchResult], *, force: bool = False) -> Calibration:
    """Fit the profile to the results, of which there is one at least, by the names that messages call them by.

    Raises InputError for a result that cannot be used: an emulated or invalid one, of another device or runtime;
    and, without `force`, a degraded one or one of fewer threads than the profile has cores.
    """
    _check(device, named, force)
    results = list(named.values())
    clock_hz = device.clock_hz or _fastest_hz(results)
    measured = [1 / result.summary.decode_tps.median for result in results]
    reads = [_reads(result) for result in results]
    types = _types(reads) if clock_hz is not None else []
    kept = {name: _kept_cycles(device, name) for name in {name for each in reads for name in each.weights}}
    columns = _columns(device, reads, types, clock_hz) / np.array(measured)[:, None]
    free = _identifiable(columns)
    fitted = [types[index - 1] for index in free if index > 0]
    rest = [name for name in kept if name not in fitted]
    constant = _arithmetic(device, reads, rest, kept, clock_hz) / np.array(measured)
    found = _least_squares(columns[:, free], 1 - constant)
    if found is None:
        raise InputError(
            f"{device.name}: its cycles_per_block alone take longer than was measured: add results of files of other "
            "types, or take clock_hz and cycles_per_block out of the profile"
        )
    cycles = {name: float(value) for name, value in zip(fitted, found[1:], strict=True)}
    after = _with(device, 1 / float(found[0]), cycles, kept, clock_hz)
    agreement = tuple(
        Agreement(
            run_id=result.run_id,
            model=result.model.path,
            measured_tps=1 / seconds,
            before_tps=predict_run(device, read).decode_tps,
            after_tps=predict_run(after, read).decode_tps,
        )
        for result, seconds, read in zip(results, measured, reads, strict=True)
    )
    notes = _notes(device, len(results), types, fitted, clock_hz, agreement)
    return Calibration(after, ("bandwidth_bytes_per_s", *fitted), agreement, notes)


def profile_to_fit(name_or_path: str) -> tuple[Device, Path]:
    """A profile and its file; a bandwidth that it lacks yet, as one that was probed does, is NaN."""
    name, table, path = read_profile(name_or_path)
    if table.get("host") is True:
        raise InputError(f"{name} is measured anew each time: there is nothing to fit")
    key = "bandwidth_bytes_per_s"
    if key in table:
        return device_of(name, table, path), path
    sources = table.get("sources")
    told = {**(sources if isinstance(sources, dict) else {}), key: "not known yet"}
    return replace(device_of(name, {**table, key: 1e9, "sources": told}, path), bandwidth_bytes_per_s=math.nan), path


def figures_of(calibration: Calibration, results: Sequence[BenchResult]) -> tuple[dict[str, Any], dict[str, str]]:
    """What the profile's file gets: the figures and the source of each."""
    device = calibration.device
    fitted = "fitted from " + " and ".join(f"bench {each.run_id}, {each.date[:10]}" for each in results)
    figures: dict[str, Any] = {"bandwidth_bytes_per_s": device.bandwidth_bytes_per_s}
    sources = {"bandwidth_bytes_per_s": fitted}
    types = [name.lower() for name in calibration.fitted[1:]]
    if types:
        figures |= {"clock_hz": device.clock_hz, "cycles_per_block": dict(device.cycles_per_block)}
        old = device.sources.get("cycles_per_block", "none, as far as reading does not tell them apart")
        rest = [name for name in device.cycles_per_block if name not in types]
        sources["cycles_per_block"] = f"{', '.join(types)} {fitted}; {', '.join(rest)}: {old}"
        sources["clock_hz"] = device.sources.get("clock_hz", "the fastest of the big cores, as the device tells it")
    return figures, sources


def _check(device: Device, results: Mapping[str, BenchResult], force: bool) -> None:
    seen: set[str] = set()
    first, *_ = results
    for name, result in results.items():
        wrong = _wrong(device, result)
        if _identity(result) != _identity(results[first]):
            wrong = wrong or f"is of another device than {first}"
        if result.run_id in seen:
            wrong = "is given twice"
        seen.add(result.run_id)
        if wrong is not None:
            raise InputError(f"{name} {wrong}: leave it out")
        doubts = _doubts(device, result)
        if doubts and not force:
            raise InputError(f"{name} {doubts[0]}: measure again, or take it all the same with --force")


def _wrong(device: Device, result: BenchResult) -> str | None:
    """Why a result cannot be used at all."""
    machine = result.machine
    cores = len([core for core in result.device.cores if core.big]) if result.device is not None else machine.cores
    apart = sorted(name for name in _TOLD_APART if (name in device.isa) != (name in machine.isa))
    if result.status == "invalid":
        return f"is invalid ({'; '.join(result.reasons)})"
    if result.emulated:
        return "is of an emulated device, whose times say nothing of a real one"
    if result.build.runtime != "native" or result.reads is None:
        return f"is of {result.build.runtime}'s runtime, and a profile's figures are the native one's"
    if abs(machine.ram_bytes / device.ram_bytes - 1) > _RAM:
        return (
            f"is of another device: it has {machine.ram_bytes / 1e9:.1f} GB of RAM and {device.name} "
            f"{device.ram_bytes / 1e9:.1f}"
        )
    if cores and cores != device.cores:
        return f"is of another device: it has {cores} big cores and {device.name} {device.cores}"
    if apart:
        return f"is of another device: only one of it and {device.name} has {', '.join(apart)}"
    return None


def _identity(result: BenchResult) -> tuple[object, ...]:
    model = None if result.device is None else result.device.model
    return result.machine.cpu, result.machine.ram_bytes, model


def _doubts(device: Device, result: BenchResult) -> list[str]:
    doubts = [f"is degraded ({'; '.join(result.reasons)})"] if result.status == "degraded" else []
    if result.config.threads != device.cores:
        doubts.append(f"ran with {result.config.threads} threads and {device.name} has {device.cores} cores")
    return doubts


def _fastest_hz(results: Sequence[BenchResult]) -> float | None:
    """Of the big cores, as the device told it."""
    cores = results[0].device.cores if results[0].device is not None else ()
    return max((core.max_hz for core in cores if core.big and core.max_hz is not None), default=None)


def _reads(result: BenchResult) -> Reads:
    assert result.reads is not None  # `_check` saw to it
    return result.reads


def _types(reads: Sequence[Reads]) -> list[str]:
    """The types that take a good part of some token's bytes, from the narrowest to the widest."""
    shares: dict[str, float] = {}
    widths: dict[str, float] = {}
    for read in reads:
        total = sum(read.weights.values()) + read.cache
        for name, count in weight_counts(read).items():
            shares[name] = max(shares.get(name, 0), read.weights[name] / total)
            widths[name] = read.weights[name] / max(count, 1)
    return sorted((name for name, share in shares.items() if share >= _SHARE), key=lambda name: (widths[name], name))


def _kept_cycles(device: Device, name: str) -> float:
    """As `predict_run` takes them; none where the profile has no figures at all."""
    slowest = max(device.cycles_per_block.values(), default=0.0)
    return device.cycles_per_block.get(name.lower(), slowest)


def _columns(device: Device, reads: Sequence[Reads], types: Sequence[str], clock_hz: float | None) -> FloatVector:
    """(results, 1 + types): seconds per token by 1 / bandwidth, and by each type's cycles for a block."""
    rows = []
    for read in reads:
        counts = weight_counts(read)
        per_cycle = 0.0 if clock_hz is None else 1 / (BLOCK * device.cores * clock_hz)
        total = float(sum(read.weights.values()) + read.cache)
        rows.append([total, *(counts.get(name, 0.0) * per_cycle for name in types)])
    return np.array(rows, np.float64)


def _arithmetic(
    device: Device, reads: Sequence[Reads], names: Sequence[str], cycles: dict[str, float], clock_hz: float | None
) -> FloatVector:
    """(results,) seconds per token of the types whose cycles are kept."""
    columns = _columns(device, reads, names, clock_hz)[:, 1:]
    return columns @ np.array([cycles[name] for name in names], np.float64)


def _identifiable(columns: FloatVector) -> list[int]:
    """The columns that the results tell apart: bandwidth, then types from the narrowest on, never the widest."""
    free = [0]
    for index in range(1, columns.shape[1] - 1):
        tried = columns[:, [*free, index]]
        if len(free) < len(columns):
            least = np.linalg.svd(tried / np.linalg.norm(tried, axis=0), compute_uv=False)[-1]
            if least > _INDEPENDENT:
                free.append(index)
    return free


def _least_squares(columns: FloatVector, wanted: FloatVector) -> FloatVector | None:
    """The x >= 0 with x[0] > 0 that brings columns @ x nearest to what is wanted; None where there is none."""
    best, least = None, np.inf
    others = range(1, columns.shape[1])
    for count in range(columns.shape[1]):
        for chosen in itertools.combinations(others, count):
            some = [0, *chosen]
            # Columns differ by many powers of ten, which lstsq would take for a lack of rank.
            sizes = np.linalg.norm(columns[:, some], axis=0)
            found = np.linalg.lstsq(columns[:, some] / sizes, wanted, rcond=None)[0] / sizes
            error = float(np.linalg.norm(columns[:, some] @ found - wanted))
            if found[0] > 0 and (found >= 0).all() and error < least:
                best, least = np.zeros(columns.shape[1]), error
                best[some] = found
    return best


def _with(
    device: Device, bandwidth: float, fitted: dict[str, float], kept: dict[str, float], clock_hz: float | None
) -> Device:
    """The device with what was fitted; where cycles are, it gets those of all types that were seen."""
    if not 1e7 <= bandwidth <= 1e14:
        raise InputError(f"{device.name}: a bandwidth of {bandwidth:.3g} bytes/s is fitted, which no device has: look")
    device = replace(device, bandwidth_bytes_per_s=_rounded(bandwidth))
    if not fitted:
        return device
    told = dict(device.cycles_per_block)
    for name in sorted(kept):
        told.setdefault(name.lower(), _rounded(max(LEAST_CYCLES, kept[name])))
    told |= {name.lower(): _rounded(max(LEAST_CYCLES, value)) for name, value in fitted.items()}
    return replace(device, clock_hz=clock_hz, cycles_per_block=told)


def _rounded(value: float) -> float:
    """Four significant digits: no measurement tells more."""
    return float(f"{value:.4g}")


def _notes(
    device: Device,
    results: int,
    types: Sequence[str],
    fitted: Sequence[str],
    clock_hz: float | None,
    agreement: Sequence[Agreement],
) -> tuple[str, ...]:
    notes = []
    if clock_hz is None:
        notes.append("neither profile nor results tell the clock: bandwidth_bytes_per_s alone is fitted")
    elif results == 1:
        notes.append("one result tells one figure, bandwidth_bytes_per_s: add results of files of other types for more")
    elif len(types) == 1:
        notes.append(f"all results are of {types[0].lower()}: its arithmetic cannot be told from its reading")
    elif left := [name.lower() for name in types if name not in fitted]:
        has = "stay as they were" if device.cycles_per_block else "are taken as none"
        notes.append(f"the cycles of {', '.join(left)} {has}: these results do not tell them")
    worst = max(abs(each.after_tps / each.measured_tps - 1) for each in agreement)
    if worst > _OFF:
        notes.append(f"the fitted profile is still up to {worst:.0%} off: see the table")
    return tuple(notes)
