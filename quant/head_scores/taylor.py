"""First-order Taylor: the squared derivative of the text's loss in a unit's factor, mean over windows.

The loss is -log p(next token), not the KL from the teacher, whose derivative is zero while nothing is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.quant.factors import Factors, multiplied
from edgekit.quant.head_scores.score import Candidates, UnitCosts
from edgekit.quant.teacher import backward


@dataclass(frozen=True)
class Taylor:
    """Molchanov et al., arXiv 1906.10771, with a window as an example."""

    def score(self, candidates: Candidates) -> UnitCosts:
        """One backward pass over each window."""
        import torch

        model, teacher, windows = candidates.model, candidates.teacher, candidates.windows
        factors = Factors.keeping(candidates.structure).trainable()
        squares = Factors(torch.zeros_like(factors.heads), torch.zeros_like(factors.channels))
        with multiplied(model, factors):
            for window in windows:
                backward(model, teacher, np.array([window]), label_share=1.0, every=teacher.stride)
                for factor, square in ((factors.heads, squares.heads), (factors.channels, squares.channels)):
                    assert factor.grad is not None
                    square.addcmul_(factor.grad, factor.grad, value=1 / len(windows))
                    factor.grad = None
        return UnitCosts.of(squares)
