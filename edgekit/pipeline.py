"""The main line: checkpoint -> calibrate -> sensitivity -> plan -> quantise -> export, every arrow a value."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgekit.export.gguf import file_bytes, write_gguf
from edgekit.measuring import Measure, Rounded
from edgekit.models.calibration import calibration_windows, split
from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.divergence import WINDOW
from edgekit.models.errors import InputError
from edgekit.models.forward import load_model
from edgekit.models.tokenizer import TokenizerFiles, load_tokenizer
from edgekit.quant.allocation import Allocation, allocate, require_possible, uniform
from edgekit.quant.formats import format_of
from edgekit.quant.plan import Budget, MeasuredKl, Plan, Sensitivity, matrices, predicted_kl, stored_bytes
from edgekit.quant.plan_file import read_plan, write_plan
from edgekit.quant.rescaling import Measurement, calibrate
from edgekit.quant.rounding import Refinement
from edgekit.quant.sensitivity import error_table
from edgekit.quant.speed import DecodeTime, allocate_for_speed, require_possible_speed
from edgekit.quant.statistics import collect
from edgekit.quant.store import Store, store_key, work_folder
from edgekit.quant.swaps import measured_swaps
from edgekit.recovery import DISTILLATION_TOKENS, FINETUNING_TOKENS, Recovery, distilled, finetuned
from edgekit.report import ReportData, write_report
from edgekit.target import DeviceLimit, Target, budget_of, device_limit, predicted_speed

STATISTICS_TOKENS = 8192
HELD_OUT_WINDOWS = 4  # of 512 tokens, of which the second half is scored
REFINEMENTS = 2  # times that the table is scaled to a plan's measured KL where a KL limit rules

T = TypeVar("T")


@dataclass
class Clock:
    """Wall seconds per stage, in the order in which the stages began."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def within(self, name: str, outer: str, items: Iterator[T]) -> Iterator[T]:
        """The items, with the time spent in making them moved from the stage `outer` to the stage `name`."""
        while True:
            start = time.perf_counter()
            item = next(items, None)
            spent = time.perf_counter() - start
            self.add(name, spent)
            self.add(outer, -spent)
            if item is None:
                return
            yield item


@dataclass(frozen=True)
class Source:
    """What is quantised: an opened checkpoint, its tokenizer, and the bytes of a file that no format changes."""

    checkpoint: Checkpoint
    tokenizer: TokenizerFiles
    fixed_bytes: int


@dataclass(frozen=True)
class Planned:
    """A plan, its matrices as they are rounded or, after training, the file's tensors, and its measured KL."""

    plan: Plan
    rounded: Rounded
    kld_measured: float | None = None
    model: Any = None  # transformers', where it was needed
    recovery: Recovery | None = None


@dataclass(frozen=True)
class Artifact:
    """A written file. KLs in nats per token; `kld_measured`: dequantised weights on held-out calibration windows."""

    path: Path
    bytes: int
    sha256: str
    plan: Plan
    kld_predicted: float | None
    kld_measured: float | None
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()  # what the user should know of the checkpoint and the plan
    report: Path | None = None
    training: Mapping[str, float] | None = None  # figures of distillation or quantisation-aware training


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

    `calib`: UTF-8 texts; none: text sampled from the model itself. `work`: a folder that keeps statistics and rounded
    matrices for the runs to come. Raises InputError for what cannot be used.
    """
    clock = Clock()
    source = _open(checkpoint, adapter, clock)
    with work_folder(work) as folder:
        calibration = Calibration(source, tuple(calib), seed, folder, kept=work is not None)
        planned = _plan(calibration, target, device_limit(target, source.checkpoint.spec), clock)
    if output is not None:
        write_plan(planned.plan, output)
    return PlanResult(planned.plan, planned.kld_measured, clock.seconds, _notes(source, planned.plan), output)


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
) -> Artifact:
    """The whole line from a checkpoint to a GGUF that fits `target`, or that follows a plan file.

    With `plan`, its own seed and, without `calib`, its own texts count. `work`: a folder that keeps statistics and
    rounded matrices, from which a run that was killed goes on. The report is OUTPUT's name with .report.html.
    `distil`: norms and block scales are trained against the checkpoint's logits. `qat`: all weights are trained under
    the plan's types, that many steps, on the texts of `calib`.
    Raises InputError for what cannot be used, TargetError where writing fails.
    """
    if (target is None) == (plan is None):
        raise InputError("give a budget (--size, --bpw, --device or one --formats type) or --plan")
    if distil and qat is not None:
        raise InputError("--distil and --qat exclude each other: choose one way of training")
    if qat is not None and not calib:
        raise InputError("--qat needs training text: give it with --calib")
    clock = Clock()
    source = _open(checkpoint, adapter, clock)
    limit = None
    with work_folder(work) as folder:
        calibration = Calibration(source, tuple(calib), seed, folder, kept=work is not None)
        if plan is not None:
            planned = _planned_from_file(calibration, plan, clock)
            if distil or qat is not None:
                calibration = _as_planned(calibration, planned.plan, plan)
        else:
            assert target is not None
            limit = device_limit(target, source.checkpoint.spec)
            planned = _plan(calibration, target, limit, clock)
        if distil:
            planned = _distilled(calibration, planned, clock)
        elif qat is not None:
            planned = _finetuned(calibration, planned, qat, clock)
        artifact = _write(source, planned, output, clock)
    return _reported(artifact, source, str(checkpoint), limit) if report else artifact


def export(
    checkpoint: str | Path,
    output: Path,
    *,
    plan: Path,
    calib: Sequence[Path] = (),
    adapter: Path | None = None,
    work: Path | None = None,
) -> Artifact:
    """The last stage on its own: round as the plan file says. `calib` and `work` as for `quantize`."""
    return quantize(checkpoint, output, plan=plan, calib=calib, adapter=adapter, work=work, report=False)


def _open(checkpoint: str | Path, adapter: Path | None, clock: Clock) -> Source:
    with clock.stage("open"):
        opened = open_checkpoint(checkpoint, adapter=adapter)
        tokenizer = load_tokenizer(opened)
        formats = {tensor.name: "f32" for tensor in matrices(opened.tensors)}
        taken = sum(stored_bytes(format_of("f32"), tensor.shape) for tensor in matrices(opened.tensors))
        return Source(opened, tokenizer, file_bytes(opened, tokenizer, formats) - taken)


@dataclass(frozen=True)
class Calibration:
    """What decides the statistics of a checkpoint, and the folder for them."""

    source: Source
    texts: tuple[Path, ...]  # none: sampled from the model
    seed: int
    folder: Path
    kept: bool  # the folder, after the run
    tokens: int = STATISTICS_TOKENS + HELD_OUT_WINDOWS * WINDOW

    def windows(self, model: Any = None) -> tuple[Any, NDArray[np.int64]]:
        """The model, loaded unless it is given, and windows (W, T) of token ids for statistics and measurements."""
        model = model or load_model(self.source.checkpoint)
        windows = calibration_windows(
            self.source.tokenizer,
            self.texts,
            tokens=self.tokens,
            length=min(WINDOW, self.source.checkpoint.spec.context),
            seed=self.seed,
            model=model,
        )
        return model, windows

    def store(self, windows_sha256: str) -> Store:
        """The store of those windows' statistics."""
        key = store_key(self.source.checkpoint, windows_sha256, self.seed) if self.kept else "calibration"
        return Store(self.folder / key)


def _plan(calibration: Calibration, target: Target, limit: DeviceLimit | None, clock: Clock) -> Planned:
    source = calibration.source
    checkpoint = source.checkpoint
    tensors = matrices(checkpoint.tensors)
    blank = Plan(
        fingerprint=checkpoint.fingerprint,
        formats={},
        bytes=0,
        kld_predicted=None,
        sensitivities=(),
        curve=(),
        fixed_bytes=source.fixed_bytes,
        budget=budget_of(target, limit),
        facts={"seed": calibration.seed, "calibration_texts": "\n".join(map(str, calibration.texts))},
    )
    if target.uniform is not None:
        return _uniform(blank, uniform(tensors, target.uniform, source.fixed_bytes), calibration, clock)
    assert blank.budget is not None
    time = None if limit is None else limit.time
    if time is None:
        require_possible(tensors, blank.budget, source.fixed_bytes)
    else:
        require_possible_speed(tensors, blank.budget, time, source.fixed_bytes)
    calibrated = _calibrate(calibration, blank.budget.formats, clock)
    planned = _allocated(blank, blank.budget, time, calibrated, clock)
    return _swapped(planned, blank.budget, calibrated, clock) if blank.budget.max_kl is None else planned


def _uniform(blank: Plan, choice: Allocation, calibration: Calibration, clock: Clock) -> Planned:
    made = replace(blank, formats=choice.formats, bytes=choice.bytes, note=choice.note)
    if not _rounded_by_statistics(made):
        return Planned(made, Rounded(calibration.source.checkpoint))
    calibrated = _calibrate(calibration, tuple(sorted(set(choice.formats.values()))), clock)
    return _measured(made, calibrated, clock)


def _rounded_by_statistics(plan: Plan) -> bool:
    """Whether statistics help the plan's rounding: they do not where all is stored as floating-point numbers."""
    return any(format_of(name).unpack is not None for name in plan.formats.values())


@dataclass(frozen=True)
class _Calibrated:
    """The error table, the means to measure a plan, and which windows both come from."""

    table: tuple[Sensitivity, ...]
    probes: tuple[MeasuredKl, ...]
    rounded: Rounded
    measure: Measure
    model: Any
    windows: NDArray[np.int64]


def _calibrate(calibration: Calibration, formats: tuple[str, ...], clock: Clock) -> _Calibrated:
    """Statistics from most of the calibration windows, and the table of those formats, corrected on the rest."""
    checkpoint, seed = calibration.source.checkpoint, calibration.seed
    with clock.stage("calibration"):
        model, windows = calibration.windows()
        store = calibration.store(_sha256(windows))
        seen, measured = split(windows, HELD_OUT_WINDOWS)
    with clock.stage("error table"):
        names = [tensor.name for tensor in matrices(checkpoint.tensors)]
        collected = store.collected(names, partial(collect, model, checkpoint, seen, seed=seed))
        table = error_table(clock.within("statistics", "error table", collected), checkpoint, formats, seed=seed)
    with clock.stage("measurements"):
        rounded = Rounded(checkpoint, store)
        measure = Measure(model, measured, rounded)
        rescaled, measurements = calibrate(table, partial(measure, refinement=Refinement.GPTQ))
    return _Calibrated(tuple(rescaled), tuple(map(_probe, measurements)), rounded, measure, model, windows)


def _probe(measurement: Measurement) -> MeasuredKl:
    probe = measurement.probe
    widths = sorted({format_of(name).width for name in probe.formats.values()})
    what = f"{probe.role} at {' or '.join(map(str, widths))} bits"
    return MeasuredKl(what, probe.predicted, measurement.kl)


def _sha256(windows: NDArray[np.int64]) -> str:
    return hashlib.sha256(windows.astype("<i8").tobytes()).hexdigest()


def _allocated(blank: Plan, budget: Budget, time: DecodeTime | None, calibrated: _Calibrated, clock: Clock) -> Planned:
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


def _swapped(planned: Planned, budget: Budget, calibrated: _Calibrated, clock: Clock) -> Planned:
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


def _near(predicted: float, measured: float) -> bool:
    """Whether a new allocation would hardly differ; a KL that small is noise."""
    return abs(measured - predicted) <= 0.05 * max(predicted, measured) or max(predicted, measured) < 1e-6


def _measured(made: Plan, calibrated: _Calibrated, clock: Clock) -> Planned:
    """The plan with its table, predicted KL and, measured on the held-out windows, the KL of it and of the probes."""
    with clock.stage("measurements"):
        kl = calibrated.measure(made.formats)
    made = replace(
        made,
        sensitivities=calibrated.table,
        kld_predicted=predicted_kl(calibrated.table, made.formats),
        measured=calibrated.probes,
        facts={**made.facts, "windows_sha256": _sha256(calibrated.windows)},
    )
    return Planned(made, calibrated.rounded, kl, calibrated.model)


def _read_plan(source: Source, path: Path) -> Plan:
    """The plan in a file, its bytes counted with this checkpoint's own header: names and templates may have changed."""
    made = read_plan(path, source.checkpoint)
    return replace(made, bytes=made.bytes - made.fixed_bytes + source.fixed_bytes, fixed_bytes=source.fixed_bytes)


def _planned_from_file(calibration: Calibration, path: Path, clock: Clock) -> Planned:
    """A plan's matrices, rounded by the statistics that it was made from: kept ones, or its calibration is repeated."""
    checkpoint = calibration.source.checkpoint
    made = _read_plan(calibration.source, path)
    if not _rounded_by_statistics(made):
        return Planned(made, Rounded(checkpoint))
    names = [tensor.name for tensor in matrices(checkpoint.tensors)]
    stated = made.facts.get("windows_sha256")
    repeated = _as_planned(calibration, made, path)
    if stated is not None and calibration.kept and not calibration.texts:
        store = repeated.store(str(stated))
        if store.complete(names):
            return Planned(made, Rounded(checkpoint, store))
    with clock.stage("calibration"):
        model, windows = repeated.windows()
        store = repeated.store(_sha256(windows))
    if stated is not None and stated != _sha256(windows):
        made = replace(made, note="rounded by other calibration text than the plan was made with")
    with clock.stage("statistics"):
        seen, _ = split(windows, HELD_OUT_WINDOWS)
        for _ in store.collected(names, partial(collect, model, checkpoint, seen, seed=repeated.seed)):
            pass  # they are kept
    return Planned(made, Rounded(checkpoint, store), model=model)


def _as_planned(calibration: Calibration, made: Plan, path: Path) -> Calibration:
    """With the plan's seed and, where none were given, its texts."""
    seed = made.facts.get("seed", calibration.seed)
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f'{path}: "facts", "seed" must be a whole number that is not negative')
    texts = calibration.texts or tuple(map(Path, str(made.facts.get("calibration_texts", "")).splitlines()))
    for text in texts:
        if not text.is_file():
            raise InputError(f"{text}, the calibration text of {path}, is not there: give it with --calib")
    return replace(calibration, seed=seed, texts=texts)


def _distilled(calibration: Calibration, planned: Planned, clock: Clock) -> Planned:
    """With norms and block scales trained on windows of their own: more of them where there is text to take."""
    with clock.stage("distillation"):
        if calibration.texts:
            calibration = replace(calibration, tokens=DISTILLATION_TOKENS + HELD_OUT_WINDOWS * WINDOW)
        model, windows = calibration.windows(planned.model)
        seen, measured = split(windows, HELD_OUT_WINDOWS)
        checkpoint, formats = calibration.source.checkpoint, planned.plan.formats
        rounded = planned.rounded.stream(formats)
        recovery = distilled(model, checkpoint, rounded, formats, seen, measured, seed=calibration.seed)
    return replace(planned, kld_measured=recovery.kld_measured, recovery=recovery)


def _finetuned(calibration: Calibration, planned: Planned, steps: int, clock: Clock) -> Planned:
    """With all weights trained under the plan's types on the calibration texts."""
    source, formats = calibration.source, planned.plan.formats
    with clock.stage("calibration"):
        model, windows = replace(calibration, tokens=FINETUNING_TOKENS).windows(planned.model)
    with clock.stage("quantisation-aware training"):
        halves = file_bytes(source.checkpoint, source.tokenizer, dict.fromkeys(formats, "f16"))
        share = planned.plan.bytes / halves
        recovery = finetuned(
            model, source.checkpoint, formats, windows, steps=steps, share_of_16_bits=share, seed=calibration.seed
        )
    return replace(planned, kld_measured=recovery.kld_measured, recovery=recovery)


def _write(source: Source, planned: Planned, output: Path, clock: Clock) -> Artifact:
    with clock.stage("rounding and writing"):
        formats, recovery = planned.plan.formats, planned.recovery
        tensors = planned.rounded.stream(formats) if recovery is None else iter(recovery.weights.blocks.items())
        vectors = None if recovery is None else recovery.weights.vectors
        size = write_gguf(source.checkpoint, source.tokenizer, tensors, formats, output, vectors=vectors)
        with output.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    assert size == planned.plan.bytes, "file_bytes and write_gguf disagree"
    return Artifact(
        path=output,
        bytes=size,
        sha256=digest,
        plan=planned.plan,
        kld_predicted=planned.plan.kld_predicted,
        kld_measured=planned.kld_measured,
        seconds=clock.seconds,
        notes=_notes(source, planned.plan) + (() if recovery is None else (recovery.note,)),
        training=None if recovery is None else recovery.figures,
    )


def _notes(source: Source, plan: Plan) -> tuple[str, ...]:
    return (*source.checkpoint.notes, *([plan.note] if plan.note else []))


def _read_bytes(source: Source, plan: Plan) -> int:
    """What a decoded token reads of the matrices: all but an untied embedding, of which it looks up one row."""
    tensors = matrices(source.checkpoint.tensors)
    read = (t for t in tensors if source.checkpoint.spec.tied or t.role != "embedding")
    return sum(stored_bytes(format_of(plan.formats[tensor.name]), tensor.shape) for tensor in read)


def _reported(artifact: Artifact, source: Source, name: str, limit: DeviceLimit | None) -> Artifact:
    path = artifact.path.with_suffix(".report.html")
    budget = artifact.plan.budget
    data = ReportData(
        model=name,
        path=artifact.path,
        bytes=artifact.bytes,
        sha256=artifact.sha256,
        spec=source.checkpoint.spec,
        tensors=source.checkpoint.tensors,
        plan=artifact.plan,
        seconds=artifact.seconds,
        kld_measured=artifact.kld_measured,
        max_bytes=None if budget is None else budget.max_bytes,
        max_kl=None if budget is None else budget.max_kl,
        device=None
        if limit is None
        else predicted_speed(limit, source.checkpoint.spec, _read_bytes(source, artifact.plan)),
    )
    write_report(path, data)
    return replace(artifact, report=path)
