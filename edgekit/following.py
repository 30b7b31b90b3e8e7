"""From a plan file to a plan: the statistics that it was made from are there, or its calibration is repeated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgekit.calibrating import HELD_OUT_WINDOWS, Calibration, Source, windows_sha256
from edgekit.clock import Clock
from edgekit.measuring import Rounded
from edgekit.models.calibration import split
from edgekit.models.errors import InputError
from edgekit.planning import Planned, rounded_by_statistics
from edgekit.quant.plan import Plan
from edgekit.quant.plan_file import read_plan


def planned_from_file(path: Path, calibration: Calibration, clock: Clock) -> Planned:
    """The plan in a file, its matrices rounded by its own statistics: kept ones, or its calibration is repeated."""
    checkpoint = calibration.source.checkpoint
    made = _read_plan(calibration.source, path)
    if not rounded_by_statistics(made):
        return Planned(made, Rounded(checkpoint))
    stated = made.facts.get("windows_sha256")
    repeated = as_planned(calibration, made, path)
    if stated is not None and calibration.kept and not calibration.texts:
        store = repeated.store(str(stated))
        if store.complete(calibration.source.matrices):
            return Planned(made, Rounded(checkpoint, store))
    with clock.stage("calibration"):
        windows = repeated.windows()
        store = repeated.store(windows_sha256(windows))
    if stated is not None and stated != windows_sha256(windows):
        made = replace(made, note="rounded by other calibration text than the plan was made with")
    with clock.stage("statistics"):
        seen, _ = split(windows, HELD_OUT_WINDOWS)
        for _ in repeated.statistics(store, seen, ()):
            pass  # they are kept
    return Planned(made, Rounded(checkpoint, store))


def as_planned(calibration: Calibration, made: Plan, path: Path) -> Calibration:
    """With the plan's seed and, where none were given, its texts."""
    seed = made.facts.get("seed", calibration.seed)
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f'{path}: "facts", "seed" must be a whole number that is not negative')
    texts = calibration.texts or tuple(map(Path, str(made.facts.get("calibration_texts", "")).splitlines()))
    for text in texts:
        if not text.is_file():
            raise InputError(f"{text}, the calibration text of {path}, is not there: give it with --calib")
    return replace(calibration, seed=seed, texts=texts)


def _read_plan(source: Source, path: Path) -> Plan:
    """The plan in a file, its bytes counted with this checkpoint's own header: names and templates may have changed."""
    made = read_plan(path, source.checkpoint)
    return replace(made, bytes=made.bytes - made.fixed_bytes + source.fixed_bytes, fixed_bytes=source.fixed_bytes)
