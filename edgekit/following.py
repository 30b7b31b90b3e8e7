"""From a plan file to a plan: the statistics that it was made from are there, or its calibration is repeated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgekit.calibrating import HELD_OUT_WINDOWS, Calibration, Source, windows_sha256
from edgekit.clock import Clock
from edgekit.file_size import fixed_bytes
from edgekit.measuring import Rounded
from edgekit.models.calibration import split
from edgekit.models.errors import InputError
from edgekit.planning import Planned, rounded_by_statistics
from edgekit.quant.containers import GGUF, Container
from edgekit.quant.formats import format_of
from edgekit.quant.plan import Budget, Plan, matrices, priced
from edgekit.quant.plan_file import read_plan


def planned_from_file(path: Path, calibration: Calibration, clock: Clock, container: Container = GGUF) -> Planned:
    """The plan in a file, its matrices rounded by its own statistics: kept ones, or its calibration is repeated.

    It speaks of the container's bytes, whatever kind of file it was made for.
    """
    checkpoint = calibration.source.checkpoint
    made = plan_for(container, read_plan(path, checkpoint), calibration.source, path)
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


def plan_for(container: Container, made: Plan, source: Source, path: Path) -> Plan:
    """A plan of that path in a container's bytes, with this checkpoint's own header: names, templates may have changed.

    Of one for another kind of file the types stay, and what was said of that file's size is dropped. Raises InputError
    where the container cannot carry the types.
    """
    container.require_carried(made.formats, source=str(path))
    fixed, shapes = fixed_bytes(source, container), {t.name: t.shape for t in matrices(source.checkpoint.tensors)}
    sizes = (container.stored_bytes(format_of(format), shapes[name]) for name, format in made.formats.items())
    counted = replace(made, bytes=fixed + sum(sizes), fixed_bytes=fixed)
    if made.container == container:
        return counted
    return replace(
        counted,
        sensitivities=priced(made.sensitivities, container),
        budget=Budget(container=container),
        curve=(),
        measured=tuple(replace(measured, bytes=None) for measured in made.measured),
    )
