"""The plan: which format each tensor gets, what that costs and what it is expected to do; JSON, hand-editable."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """What the file may cost. None means no limit. With `max_kl`: the smallest file within `max_bytes` that keeps to it."""

    max_bytes: int | None = None  # the whole file, header included
    max_kl: float | None = None  # nats per token
    formats: tuple[str, ...] = ()  # candidate format names, () for all


@dataclass(frozen=True)
class Candidate:
    """One choice for one tensor: bytes in the file (padding included) and predicted KL in nats per token."""

    format: str
    bytes: int
    kl: float


@dataclass(frozen=True)
class Sensitivity:
    """One matrix and its candidates, in ascending bytes."""

    name: str
    role: str
    layer: int | None
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class CurvePoint:
    """One considered plan: the whole file's bytes, its predicted KL."""

    bytes: int
    kl: float


@dataclass(frozen=True)
class Plan:
    """Tensor name -> format name for every matrix, and what follows from it."""

    fingerprint: str  # of the checkpoint: names and shapes of its tensors
    formats: dict[str, str]
    bytes: int  # the whole file
    kld_predicted: float | None
    sensitivities: tuple[Sensitivity, ...]
    curve: tuple[CurvePoint, ...]
    measured: tuple[CurvePoint, ...] = ()  # plans whose KL was measured on held-out calibration text
    note: str | None = None  # for example: the KL limit could not be met within the bytes
