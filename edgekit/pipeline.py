"""The main line: checkpoint -> calibrate -> sensitivity -> plan -> quantise -> export, every arrow a value."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit import onnx_folder
from edgekit.ablation import ablation
from edgekit.artifact import Artifact, notes, reported, written
from edgekit.calibrating import Calibration, open_source
from edgekit.clock import Clock
from edgekit.export.onnx.options import OnnxOptions
from edgekit.following import as_planned, planned_from_file
from edgekit.head_pruning import pruned_folder
from edgekit.models.errors import InputError
from edgekit.planning import planned_for
from edgekit.pruned_heads import HeadOptions
from edgekit.quant.containers import ONNX
from edgekit.quant.plan import Plan
from edgekit.quant.plan_file import read_plan, write_plan
from edgekit.quant.store import work_folder
from edgekit.recovery import distilled, finetuned
from edgekit.target import Target, device_limit


@dataclass(frozen=True)
class PlanResult:
    """A plan, as written where a path was given, and the seconds per stage."""

    plan: Plan
    kld_measured: float | None
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()
    path: Path | None = None


def plan(
    checkpoint: str | Path,
    target: Target,
    output: Path | None = None,
    *,
    calib: Sequence[Path] = (),
    seed: int = 0,
    adapter: Path | None = None,
    work: Path | None = None,
) -> PlanResult:
    """Sensitivity and allocation only; with `output`, written as JSON.

    `calib`: UTF-8 texts; none: text sampled from the model itself. `work`: a folder that keeps statistics, rounded
    matrices and measured KLs for the runs to come. Raises InputError for what cannot be used.
    """
    clock = Clock()
    source = open_source(checkpoint, adapter, clock)
    with work_folder(work) as folder:
        calibration = Calibration(source, tuple(calib), seed, folder, kept=work is not None)
        planned = planned_for(target, device_limit(target, source.checkpoint.spec), calibration, clock)
    if output is not None:
        write_plan(planned.plan, output)
    return PlanResult(planned.plan, planned.kld_measured, clock.seconds, notes(source, planned.plan), output)


def quantize(
    checkpoint: str | Path,
    output: Path,
    target: Target | None = None,
    *,
    plan: Path | None = None,
    calib: Sequence[Path] = (),
    seed: int = 0,
    adapter: Path | None = None,
    work: Path | None = None,
    report: bool = True,
    distil: bool = False,
    qat: int | None = None,
    prune: HeadOptions | None = None,
) -> Artifact:
    """The whole line from a checkpoint to a GGUF that fits `target`, or that follows a plan file.

    With `plan`, its own seed and, without `calib`, its own texts count. `work`: a folder that keeps statistics, rounded
    matrices and measured KLs, from which a run that was killed, or one for another target, goes on. The report is
    OUTPUT's name with .report.html; what each step is worth is measured for it.
    `distil`: norms and block scales are trained against the checkpoint's logits. `qat`: all weights are trained under
    the plan's types, that many steps, on the texts of `calib`. `prune`: heads are cut away first; the report of that is
    OUTPUT's name with .pruning.html, and KLs here are against the pruned checkpoint.
    Raises InputError for what cannot be used, TargetError where writing fails.
    """
    if (target is None) == (plan is None):
        raise InputError("give a budget (--size, --bpw, --device or one --formats type) or --plan")
    if distil and qat is not None:
        raise InputError("--distil and --qat exclude each other: choose one way of training")
    if qat is not None and not calib:
        raise InputError("--qat needs training text: give it with --calib")
    if prune is not None:
        with work_folder(work) as folder:
            smaller = pruned_folder(checkpoint, folder, prune, calib=calib, seed=seed, adapter=adapter)
            artifact = quantize(
                smaller,
                output,
                target,
                plan=plan,
                calib=calib,
                seed=seed,
                work=work,
                report=report,
                distil=distil,
                qat=qat,
            )
            if report:
                shutil.copyfile(smaller / "pruning.html", output.with_suffix(".pruning.html"))
            return artifact
    clock = Clock()
    source = open_source(checkpoint, adapter, clock)
    limit = None
    with work_folder(work) as folder:
        calibration = Calibration(source, tuple(calib), seed, folder, kept=work is not None)
        if plan is not None:
            planned = planned_from_file(plan, calibration, clock)
            if distil or qat is not None:
                calibration = as_planned(calibration, planned.plan, plan)
        else:
            assert target is not None
            limit = device_limit(target, source.checkpoint.spec)
            planned = planned_for(target, limit, calibration, clock)
        recovery = None
        if distil:
            recovery = distilled(calibration, planned, clock)
        elif qat is not None:
            recovery = finetuned(calibration, planned, qat, clock)
        artifact = written(source, planned, recovery, output, clock)
        if report and qat is None:
            artifact = replace(artifact, ablation=ablation(planned, recovery, clock))
    return reported(artifact, source, str(checkpoint), limit) if report else artifact


def export(
    checkpoint: str | Path,
    output: Path,
    *,
    plan: Path,
    calib: Sequence[Path] = (),
    adapter: Path | None = None,
    work: Path | None = None,
    onnx: OnnxOptions | None = None,
) -> Artifact:
    """The last stage on its own: round as the plan file says. `calib` and `work` as for `quantize`.

    `output` is a GGUF, or with `onnx` a new folder; InputError where ONNX cannot carry the plan's formats.
    """
    if onnx is None:
        return quantize(checkpoint, output, plan=plan, calib=calib, adapter=adapter, work=work, report=False)
    clock = Clock()
    source = open_source(checkpoint, adapter, clock)
    onnx_folder.require_possible(source, read_plan(plan, source.checkpoint), output, onnx, plan)
    with work_folder(work) as folder:
        calibration = Calibration(source, tuple(calib), 0, folder, kept=work is not None)
        planned = planned_from_file(plan, calibration, clock, ONNX)
        return onnx_folder.written(source, planned, output, onnx, clock)
