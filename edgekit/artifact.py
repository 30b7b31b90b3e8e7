"""The end of the line: the GGUF file, what is known of it, and its report."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.calibrating import Source
from edgekit.clock import Clock
from edgekit.export.gguf import write_gguf
from edgekit.planning import Planned
from edgekit.pruning_file import read_pruning
from edgekit.quant.formats import format_of
from edgekit.quant.plan import Plan, matrices
from edgekit.recovery import Recovery
from edgekit.report import AblationRow, ReportData, write_report
from edgekit.report.data import plan_bits_per_weight
from edgekit.target import DeviceLimit, predicted_speed
from edgekit.zeros import ZeroCount, Zeros, is_pruned


@dataclass(frozen=True)
class Artifact:
    """A written file or ONNX folder.

    KLs in nats per token; `kld_measured`: dequantised weights on held-out calibration windows.
    """

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
    zeros: Zeros | None = None  # of a pruned checkpoint
    ablation: tuple[AblationRow, ...] = ()  # with a report: what each step is worth
    bits_per_weight: float | None = None  # of the matrices, as the file has them


def written(source: Source, planned: Planned, recovery: Recovery | None, output: Path, clock: Clock) -> Artifact:
    """The plan's file, its tensors rounded or, with `recovery`, as training left them."""
    formats = planned.plan.formats
    count = ZeroCount(source.checkpoint, formats) if is_pruned(source.checkpoint) else None
    with clock.stage("rounding and writing"):
        tensors = planned.rounded.stream(formats) if recovery is None else iter(recovery.weights.blocks.items())
        tensors = tensors if count is None else count.watched(tensors)
        vectors = None if recovery is None else recovery.weights.vectors
        size = write_gguf(source.checkpoint, source.tokenizer, tensors, formats, output, vectors=vectors)
        with output.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    assert size == planned.plan.bytes, "file_bytes and write_gguf disagree"
    zeros = None
    if count is not None:
        with clock.stage("compressed size"):
            zeros = count.of_file(output)
    return Artifact(
        path=output,
        bytes=size,
        sha256=digest,
        plan=planned.plan,
        kld_predicted=planned.plan.kld_predicted,
        kld_measured=planned.kld_measured if recovery is None else recovery.kld_measured,
        seconds=clock.seconds,
        notes=notes(source, planned.plan) + tuple(stage.note for stage in (recovery, zeros) if stage is not None),
        training=None if recovery is None else recovery.figures,
        zeros=zeros,
        bits_per_weight=plan_bits_per_weight(planned.plan),
    )


def notes(source: Source, plan: Plan) -> tuple[str, ...]:
    """What the user should know of the checkpoint and the plan."""
    spec, pruning = source.checkpoint.spec, read_pruning(source.checkpoint.path).get("summary")
    stock = None
    if not spec.runs_in_llama_cpp:
        stock = f"llama.cpp has no {spec.family} graph with counts of each layer's own: this runs in native and torch"
    return (*source.checkpoint.notes, *(note for note in (pruning, stock, plan.note) if note))


def reported(artifact: Artifact, source: Source, name: str, limit: DeviceLimit | None) -> Artifact:
    """With the report beside it: OUTPUT's name with .report.html. `name` is the checkpoint's, for the title."""
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
        ablation=artifact.ablation,
        max_bytes=None if budget is None else budget.max_bytes,
        max_kl=None if budget is None else budget.max_kl,
        notes=artifact.notes,
        device=None
        if limit is None
        else predicted_speed(limit, source.checkpoint.spec, _read_bytes(source, artifact.plan)),
    )
    write_report(path, data)
    return replace(artifact, report=path)


def _read_bytes(source: Source, plan: Plan) -> int:
    """What a decoded token reads of the matrices: all but an untied embedding, of which it looks up one row."""
    tensors = matrices(source.checkpoint.tensors)
    read = (t for t in tensors if source.checkpoint.spec.tied or t.role != "embedding")
    return sum(plan.container.stored_bytes(format_of(plan.formats[tensor.name]), tensor.shape) for tensor in read)
