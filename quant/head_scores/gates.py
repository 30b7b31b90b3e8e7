"""Gates: a trained factor per unit, the weights frozen.

Adam (Kingma and Ba, arXiv 1412.6980) lowers KL(model || gated model) plus an L1 penalty on the gates (Voita et al., arXiv 1905.09418, with
L0; Liu et al., arXiv 1708.06519, with L1): the penalty shrinks every gate until the KL resists as much, and a gate near 0 belongs to a unit that the model
does without. Gates stay within 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.quant.factors import Factors, multiplied
from edgekit.quant.head_scores.score import UnitCosts
from edgekit.quant.structure import Structure
from edgekit.quant.teacher import Teacher, backward
from edgekit.quant.training import batches, windows_per_step


@dataclass(frozen=True)
class Gates:
    steps: int = 32
    penalty: float = 0.01  # nats per token and gate
    rate: float = 0.05

    def score(self, model: Any, teacher: Teacher, windows: NDArray[np.int64], structure: Structure) -> UnitCosts:
        import torch

        kept = Factors.keeping(structure)
        gates = kept.trainable()
        optimiser = torch.optim.Adam([gates.heads], lr=self.rate, betas=(0.9, 0.99))
        order = batches(len(windows), 4, self.steps, 0)
        with multiplied(model, gates):
            for i, chosen in enumerate(order):
                optimiser.zero_grad()
                backward(model, teacher, windows[chosen])
                gates.heads.grad += self.penalty
                for g in optimiser.param_groups: g["lr"] = self.rate * (1 - i / self.steps)
                optimiser.step()
                with torch.no_grad():
                    gates.heads.clamp_(0, 1).mul_(kept.heads)
        return UnitCosts.of(gates)
