"""What every score of heads and channels takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.quant.factors import Factors
from edgekit.quant.structure import Structure
from edgekit.quant.teacher import Teacher


@dataclass(frozen=True)
class UnitCosts:
    """What it costs to remove each unit, in a unit of the score's own, which heads and channels need not share."""

    heads: NDArray[np.float32]  # (layers, most heads of a layer)
    channels: NDArray[np.float32]  # (layers, most channels of a layer)

    @classmethod
    def of(cls, factors: Factors) -> UnitCosts:
        """The factors' values."""
        return cls(*(values.detach().numpy().copy() for values in (factors.heads, factors.channels)))


class HeadScore(Protocol):
    """What orders the units of a model, given what is still there of it."""

    def score(self, model: Any, teacher: Teacher, windows: NDArray[np.int64], structure: Structure) -> UnitCosts:
        """The costs by index in the unpruned model `model`; those of units that `structure` lost mean nothing.

        `teacher` is the model as it is, `windows` (W,) are the numbers of those of its windows to look at. The model is
        left as it was.
        """
