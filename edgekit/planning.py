"""From a target to a plan: allocation by the error table, swaps where the measured KL falls, the plan's own KL."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from edgekit.calibrating import Calibrated, Calibration, calibrate
from edgekit.clock import Clock
from edgekit.file_size import fixed_bytes
from edgekit.measuring import Measure, Rounded
from edgekit.quant.allocation import Allocation, allocate, require_possible, uniform
from edgekit.quant.formats import format_of
from edgekit.quant.plan import Budget, MeasuredKl, Plan, matrices, predicted_kl
from edgekit.quant.rounding import Refinement
from edgekit.quant.speed import DecodeTime, allocate_for_speed, require_possible_speed
from edgekit.quant.swaps import measured_swaps
from edgekit.target import DeviceLimit, Target, budget_of

REFINEMENTS = 2  # times that the table is scaled to a plan's measured KL where a KL limit rules


@dataclass(frozen=True)
class Planned:
    """A plan, its matrices as they are rounded, and its KL measured on held-out calibration windows."""

    plan: Plan
    rounded: Rounded
    kld_measured: float | None = None
    measure: Measure | None = None  # of the windows that kld_measured is from


def planned_for(target: Target, limit: DeviceLimit | None, calibration: Calibration, clock: Clock) -> Planned:
    """The plan for a target; `limit` is its device's. Raises InputError where nothing fits."""
    source = calibration.source
    tensors, budget = matrices(source.checkpoint.tensors), budget_of(target, limit)
    with clock.stage("open"):
        fixed = fixed_bytes(source, budget.container)
    blank = Plan(
        fingerprint=source.checkpoint.fingerprint,
        formats={},
        bytes=0,
        kld_predicted=None,
        sensitivities=(),
        curve=(),
        fixed_bytes=fixed,
        budget=budget,
        facts={"seed": calibration.seed, "calibration_texts": "\n".join(map(str, calibration.texts))},
    )
    if target.uniform is not None:
        return _uniform(blank, uniform(tensors, target.uniform, fixed, budget.container), calibration, clock)
    time = None if limit is None else limit.time
    if time is None:
        require_possible(tensors, budget, fixed)
    else:
        require_possible_speed(tensors, budget, time, fixed)
    calibrated = calibrate(calibration, budget.formats, clock, budget.container)
    planned = _allocated(blank, budget, time, calibrated, clock)
    return swapped(planned, budget, calibrated, clock) if budget.max_kl is None else planned


def rounded_by_statistics(plan: Plan) -> bool:
    """Whether statistics help the plan's rounding: they do not where all is stored as floating-point numbers."""
    return any(format_of(name).unpack is not None for name in plan.formats.values())


def swapped(planned: Planned, budget: Budget, calibrated: Calibrated, clock: Clock) -> Planned:
    """The plan after measured swaps of bytes between classes of matrices; the KLs of those tried join the probes'."""
    plan, table = planned.plan, calibrated.table
    with clock.stage("swaps"):
        measure = partial(calibrated.measure.tokens, refinement=Refinement.GPTQ)
        found = measured_swaps(table, plan.formats, budget, measure, fixed_bytes=plan.fixed_bytes)
    sizes = {(s.name, c.format): c.bytes for s in table for c in s.candidates}

    def size(formats: dict[str, str]) -> int:
        return plan.fixed_bytes + sum(sizes[choice] for choice in formats.items())

    tried = (MeasuredKl(f"plan, {s.what}", s.predicted, s.measured, size(s.formats)) for s in found.tried)
    calibrated = replace(calibrated, probes=(*calibrated.probes, *tried))
    if found.formats == plan.formats:
        return replace(planned, plan=replace(plan, measured=calibrated.probes))
    return _measured(replace(plan, formats=found.formats, bytes=size(found.formats)), calibrated, clock)


def _uniform(blank: Plan, choice: Allocation, calibration: Calibration, clock: Clock) -> Planned:
    made = replace(blank, formats=choice.formats, bytes=choice.bytes, note=choice.note)
    if not rounded_by_statistics(made):
        return Planned(made, Rounded(calibration.source.checkpoint))
    calibrated = calibrate(calibration, tuple(sorted(set(choice.formats.values()))), clock, made.container)
    return _measured(made, calibrated, clock)


def _allocated(blank: Plan, budget: Budget, time: DecodeTime | None, calibrated: Calibrated, clock: Clock) -> Planned:
    """The best plan of the table, for size or, with `time`, for speed.

    Where a KL limit rules, the table is scaled to what its plan was measured at.
    """
    table = calibrated.table
    for attempt in range(REFINEMENTS + 1):
        with clock.stage("allocation"):
            if time is None:
                choice, facts = allocate(table, budget, blank.fixed_bytes), blank.facts
            else:
                choice = allocate_for_speed(table, budget, time, blank.fixed_bytes)
                facts = {**blank.facts, "decode_tps_predicted": 1 / time.total(table, choice.formats)}
        made = replace(
            blank, formats=choice.formats, bytes=choice.bytes, curve=choice.curve, note=choice.note, facts=facts
        )
        planned = _measured(made, replace(calibrated, table=table), clock)
        predicted, measured = planned.plan.kld_predicted, planned.kld_measured
        assert predicted is not None and measured is not None
        if budget.max_kl is None or attempt == REFINEMENTS or _near(predicted, measured):
            break
        factor = measured / predicted
        table = tuple(
            replace(
                s, candidates=tuple(replace(c, kl=c.kl * factor, kl_error=c.kl_error * factor) for c in s.candidates)
            )
            for s in table
        )
    return planned


def _near(predicted: float, measured: float) -> bool:
    """Whether a new allocation would hardly differ; a KL that small is noise."""
    return abs(measured - predicted) <= 0.05 * max(predicted, measured) or max(predicted, measured) < 1e-6


def _measured(made: Plan, calibrated: Calibrated, clock: Clock) -> Planned:
    """The plan with its table, predicted KL and, measured on the held-out windows, the KL of it and of the probes."""
    with clock.stage("measurements"):
        kl = calibrated.measure(made.formats)
    made = replace(
        made,
        sensitivities=calibrated.table,
        kld_predicted=predicted_kl(calibrated.table, made.formats),
        measured=calibrated.probes,
        facts={**made.facts, "windows_sha256": calibrated.windows_sha256},
    )
    return Planned(made, calibrated.rounded, kl, calibrated.measure)
