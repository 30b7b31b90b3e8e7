"""What every score of heads and channels takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.quant.factors import Factors
from edgekit.quant.structure import Kind, Structure
from edgekit.quant.teacher import Teacher


@dataclass(frozen=True)
class UnitCosts:
    """What it costs to remove each unit, by its index in the unpruned model; of a kind that is not asked for, anything.

    A score's costs of heads can be added up and compared with each other, and so can those of channels.
    """

    heads: NDArray[np.float32]  # (layers, most heads of a layer)
    channels: NDArray[np.float32]  # (layers, most channels of a layer)

    @classmethod
    def of(cls, factors: Factors) -> UnitCosts:
        """The factors' values."""
        return cls(*(values.detach().numpy().copy() for values in (factors.heads, factors.channels)))


@dataclass(frozen=True)
class Candidates:
    """What may go in a round: units of those kinds that `structure` still has of the unpruned `model`."""

    model: Any
    teacher: Teacher  # the model as it is
    windows: NDArray[np.int64]  # (W,) numbers of those of the teacher's to look at
    structure: Structure
    kinds: tuple[Kind, ...]
    before: UnitCosts | None = None  # what the same score said in the round before


class HeadScore(Protocol):
    """What orders the units of a model, given what is still there of it."""

    def score(self, candidates: Candidates) -> UnitCosts:
        """The cost of removing each candidate; the model is left as it was."""
