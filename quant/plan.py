"""The plan: which format each tensor gets, what that costs and what it is expected to do (its file: `plan_file`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.errors import InputError
from edgekit.models.spec import MATRIX_ROLES, TensorSpec
from edgekit.quant.containers import GGUF, Container
from edgekit.quant.formats import format_of


@dataclass(frozen=True)
class Budget:
    """What the file may cost; None means no limit. Give `max_bytes` or `max_bpw`, not both.

    With `max_kl`: the smallest file within the limit that keeps to it.
    """

    max_bytes: int | None = None  # the whole file, header included
    max_kl: float | None = None  # nats per token
    formats: tuple[str, ...] = ()  # candidate format names, () for all
    max_bpw: float | None = None  # mean bits per weight of the matrices' blocks: no header, no vectors, no padding
    container: Container = GGUF  # the kind of file


@dataclass(frozen=True)
class Candidate:
    """One choice for one tensor: bytes in the file (padding included) and predicted KL in nats per token."""

    format: str
    bytes: int
    kl: float
    kl_error: float = 0.0  # standard error of `kl` where it was estimated from a sample of the rows


@dataclass(frozen=True)
class Sensitivity:
    """One matrix and its candidates, in ascending bytes."""

    name: str
    role: str
    layer: int | None
    candidates: tuple[Candidate, ...]
    shape: tuple[int, int] = (0, 0)  # (rows, columns)


@dataclass(frozen=True)
class CurvePoint:
    """One considered plan: the whole file's bytes, its predicted KL."""

    bytes: int
    kl: float


@dataclass(frozen=True)
class MeasuredKl:
    """Some matrices rounded, the others as they were: the KL that the table predicts and the measured one, in nats."""

    what: str  # "q", or "all", with the width: "q at 4 bits"
    predicted: float
    measured: float
    bytes: int | None = None  # of the whole file, where all matrices were rounded


@dataclass(frozen=True)
class Plan:
    """Tensor name -> format name for every matrix, and what follows from it."""

    fingerprint: str  # of the checkpoint: names and shapes of its tensors
    formats: dict[str, str]
    bytes: int  # the whole file; of ONNX at most
    kld_predicted: float | None
    sensitivities: tuple[Sensitivity, ...]
    curve: tuple[CurvePoint, ...]
    measured: tuple[MeasuredKl, ...] = ()  # on held-out calibration text
    note: str | None = None  # for example: the KL limit could not be met within the bytes
    fixed_bytes: int = 0  # of `bytes`, what no format changes: header, vectors
    budget: Budget | None = None  # what was asked for
    facts: Mapping[str, str | int | float] = field(default_factory=dict)  # what its rounding's statistics come from

    @property
    def container(self) -> Container:
        """The kind of file that its bytes are of."""
        return GGUF if self.budget is None else self.budget.container


def matrices(tensors: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The tensors that a plan speaks of; vectors are always F32."""
    return tuple(tensor for tensor in tensors if tensor.role in MATRIX_ROLES)


def priced(table: Sequence[Sensitivity], container: Container) -> tuple[Sensitivity, ...]:
    """The table's candidates that a container carries, with their bytes in it."""
    return tuple(
        replace(
            row,
            candidates=tuple(
                sorted(
                    (
                        replace(each, bytes=container.stored_bytes(format_of(each.format), row.shape))
                        for each in row.candidates
                        if each.format in container.formats
                    ),
                    key=lambda candidate: (candidate.bytes, candidate.kl),
                )
            ),
        )
        for row in table
    )


def replan(plan: Plan, checkpoint: Checkpoint, *, source: str = "the plan") -> Plan:
    """The plan with bytes and predicted KL derived anew from its formats, its table and the checkpoint's shapes.

    Where they differ from what the plan says, it was edited: its note and its measurements are dropped. The predicted
    KL is None where a format is not in the table. Raises InputError, naming `source`, where plan and checkpoint differ.
    """
    if plan.fingerprint != checkpoint.fingerprint:
        raise InputError(
            f"{source} was made for another checkpoint than {checkpoint.path}: make one with 'edgekit plan'"
        )
    return derive(plan, {tensor.name: tensor.shape for tensor in matrices(checkpoint.tensors)}, source=source)


def derive(plan: Plan, shapes: Mapping[str, tuple[int, ...]], *, source: str) -> Plan:
    """`replan` for matrices of those shapes."""
    for name in sorted(plan.formats.keys() - shapes.keys()):
        raise InputError(f'{source}: the model has no matrix "{name}": remove that entry')
    for name in sorted(shapes.keys() - plan.formats.keys()):
        raise InputError(f'{source}: the matrix "{name}" is missing: add it with a type')
    plan.container.require_carried(plan.formats, source=source)
    total = plan.fixed_bytes
    for name, shape in shapes.items():
        format = format_of(plan.formats[name])
        if not format.carries(shape[1]):
            raise InputError(
                f'{source}: {format.name} cannot carry "{name}", whose rows have {shape[1]} weights: '
                f"it takes multiples of {format.block}"
            )
        total += plan.container.stored_bytes(format, shape)
    kl = predicted_kl(plan.sensitivities, plan.formats)
    if total == plan.bytes and _same(kl, plan.kld_predicted):
        return plan
    return replace(plan, bytes=total, kld_predicted=kl, measured=(), note="edited by hand")


def predicted_kl(sensitivities: Sequence[Sensitivity], formats: Mapping[str, str]) -> float | None:
    """The table's KLs of those formats, summed; None where the table lacks one."""
    table = {(s.name, c.format): c.kl for s in sensitivities for c in s.candidates}
    if not all(choice in table for choice in formats.items()):
        return None
    return math.fsum(table[choice] for choice in formats.items())


def _same(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-300)
