"""The weights alone: the norm of what writes a unit's output times the norm of what reads it in. For comparison only.

A head's norms are those of its columns of o_proj and of its KV group's rows of v_proj, a channel's those of its column
of down_proj and its row of up_proj.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.forward import parts
from edgekit.quant.factors import Factors
from edgekit.quant.head_scores.score import UnitCosts
from edgekit.quant.structure import Structure
from edgekit.quant.teacher import Teacher


@dataclass(frozen=True)
class Magnitude:
    """Li et al., arXiv 1608.08710, for both ends of a unit."""

    def score(self, model: Any, teacher: Teacher, windows: NDArray[np.int64], structure: Structure) -> UnitCosts:
        """Products of Frobenius norms; nothing is run."""
        norms = Factors.keeping(structure)
        for layer, heads, channels in zip(parts(model).layers, norms.heads, norms.channels, strict=True):
            attention, mlp = layer.self_attn, layer.mlp
            written = _norms(attention.o_proj.weight.T, attention.head_dim)  # (heads,)
            read = _norms(attention.v_proj.weight, attention.head_dim)  # (groups,)
            heads[: len(written)] = written * read.repeat_interleave(len(written) // len(read))
            written = _norms(mlp.down_proj.weight.T, 1)
            channels[: len(written)] = written * _norms(mlp.up_proj.weight, 1)
        return UnitCosts.of(norms)


def _norms(rows: Any, size: int) -> Any:
    """(units,) Frobenius norms of a torch matrix (units * size, K)."""
    return rows.detach().unflatten(0, (-1, size)).flatten(1).norm(dim=1)
