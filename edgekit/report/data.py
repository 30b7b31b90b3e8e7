"""What a report tells, and the sums that its figures share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.models.spec import ModelSpec, TensorSpec
from edgekit.quant.containers import Container
from edgekit.quant.formats import format_of
from edgekit.quant.plan import Plan


@dataclass(frozen=True)
class DevicePrediction:
    """Speed predicted, not measured, for a device: decode tokens per second and what bounds it, as a phrase."""

    title: str
    tokens_per_s: float
    bound: str  # "memory bandwidth: 246 MB read per token at 3.3 GB/s"


@dataclass(frozen=True)
class AblationRow:
    """A file made with one more of the steps that make a plan's file; `kl`: its dequantised weights, held-out text."""

    step: str  # "plain", "+ GPTQ"
    what: str  # "the plan's types, rounded by GPTQ"
    bytes: int
    kl: float


@dataclass(frozen=True)
class ReportData:
    """Everything that `write_report` shows. KLs in nats per token, sizes in bytes, `seconds` per stage in order."""

    model: str  # the checkpoint, as the user named it
    path: Path  # the file that was written
    bytes: int
    sha256: str
    spec: ModelSpec
    tensors: tuple[TensorSpec, ...]
    plan: Plan
    seconds: Mapping[str, float] = field(default_factory=dict)
    kld_measured: float | None = None
    max_bytes: int | None = None  # the budget; None where there was none
    max_kl: float | None = None
    device: DevicePrediction | None = None
    notes: Sequence[str] = ()  # sentences on the checkpoint, the plan and what was done
    ablation: tuple[AblationRow, ...] = ()


@dataclass(frozen=True)
class TensorRow:
    """One tensor of the written file; `kl` is None for vectors and where no statistics were taken."""

    name: str
    role: str
    layer: int | None
    shape: tuple[int, ...]
    format: str
    width: int
    weights: int
    bytes: int
    kl: float | None


def tensor_rows(data: ReportData) -> tuple[TensorRow, ...]:
    """The file's tensors in file order, with the bytes that each takes (padding included)."""
    chosen = {
        (sensitivity.name, candidate.format): candidate.kl
        for sensitivity in data.plan.sensitivities
        for candidate in sensitivity.candidates
    }
    rows = []
    for tensor in data.tensors:
        format = format_of(data.plan.formats.get(tensor.name, "f32"))
        count, columns = (1, *tensor.shape)[-2:]
        rows.append(
            TensorRow(
                name=tensor.name,
                role=tensor.role,
                layer=tensor.layer,
                shape=tensor.shape,
                format=format.name,
                width=format.width,
                weights=count * columns,
                bytes=data.plan.container.stored_bytes(format, (count, columns)),
                kl=chosen.get((tensor.name, format.name)),
            )
        )
    return tuple(rows)


def bits_per_weight(rows: Sequence[TensorRow], container: Container) -> float:
    """Mean bits per weight of the matrices' blocks: no header, no vectors, no padding; as `--bpw` counts them."""
    matrices = [row for row in rows if len(row.shape) == 2]
    bits = sum(container.bits_per_weight(format_of(row.format)) * row.weights for row in matrices)
    return bits / sum(row.weights for row in matrices)


def plan_bits_per_weight(plan: Plan) -> float | None:
    """The same of a plan alone, from the shapes in its table; None where it has no table and several types."""
    widths = {name: plan.container.bits_per_weight(format_of(format)) for name, format in plan.formats.items()}
    if len(set(widths.values())) == 1:
        return next(iter(widths.values()))
    weights = {sensitivity.name: math.prod(sensitivity.shape) for sensitivity in plan.sensitivities}
    if not widths.keys() <= weights.keys():
        return None
    return sum(width * weights[name] for name, width in widths.items()) / sum(weights[name] for name in widths)
