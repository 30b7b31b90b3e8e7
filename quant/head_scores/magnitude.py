"""The weights alone: the norm of what writes a unit's output times the norm of what reads it in. For comparison only.

A head's norms are those of its columns of o_proj and of its KV group's rows of v_proj, a channel's those of its column
of down_proj and of its row of up_proj.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.models.forward import parts
from edgekit.quant.factors import Factors
from edgekit.quant.head_scores.score import Candidates, UnitCosts

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Magnitude:
    """As Li et al., arXiv 1608.08710, but for both ends of a unit."""

    def score(self, candidates: Candidates) -> UnitCosts:
        """Products of Frobenius norms; nothing is run."""
        norms = Factors.keeping(candidates.structure)
        for layer, heads, channels in zip(parts(candidates.model).layers, norms.heads, norms.channels, strict=True):
            attention, feed_forward = layer.self_attn, layer.mlp
            written = _norms(attention.o_proj.weight.T, attention.head_dim)  # (heads,)
            read = _norms(attention.v_proj.weight, attention.head_dim)  # (groups,)
            heads[: len(written)] = written * read.repeat_interleave(len(written) // len(read))
            written = _norms(feed_forward.down_proj.weight.T, 1)
            channels[: len(written)] = written * _norms(feed_forward.up_proj.weight, 1)
        return UnitCosts.of(norms)


def _norms(matrix: torch.Tensor, size: int) -> torch.Tensor:
    """(units,) Frobenius norms of the `size` rows that each unit has of a matrix (units * size, K)."""
    return matrix.detach().reshape(len(matrix) // size, -1).norm(dim=1)  # type: ignore[no-any-return]
