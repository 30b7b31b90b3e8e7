"""Gates: a factor per unit, trained with the weights frozen.

Adam (Kingma and Ba, arXiv 1412.6980) lowers KL(model || gated model) plus an L1 penalty on the probabilities that the
gates are open at all. A gate is stochastic, as in Voita et al., arXiv 1905.09418: hard concrete (Louizos et al., arXiv
1712.01312), which is exactly 0 or exactly 1 most of the time and has a derivative in between. Plain factors with an L1
penalty do not work here: the next norm divides out what the heads of a layer have in common, so that all shrink
together and cost nothing, and a small one is not one that can go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.models.spec import ModelSpec
from edgekit.quant.factors import Factors, multiplied
from edgekit.quant.head_scores.score import Candidates, UnitCosts
from edgekit.quant.teacher import backward
from edgekit.quant.training import batches

if TYPE_CHECKING:
    import torch

TEMPERATURE = 2 / 3  # Louizos's, and the ends that are stretched beyond 0 and 1
LOW, HIGH = -0.1, 1.1
START = 2.0  # of the log odds: three in four draws are wide open


@dataclass(frozen=True)
class Gates:
    """Log odds of every gate, which go on from the round before; a KV group that goes as a whole has one gate."""

    passes: int = 1  # over the windows, in every round
    penalty: float = 0.01  # nats per token: what a unit must be worth
    rate: float = 0.1  # of Adam

    def score(self, candidates: Candidates) -> UnitCosts:
        """The log odds after one step for each window and pass."""
        import torch

        kept, kinds = Factors.keeping(candidates.structure), candidates.kinds
        owners = _owners(kept.heads, candidates.structure.spec, whole_groups="groups" in kinds)
        heads, channels = _start(candidates.before, kept)
        trained = [heads] * (set(kinds) != {"channels"}) + [channels] * ("channels" in kinds)
        optimiser = torch.optim.Adam([odds.requires_grad_() for odds in trained], lr=self.rate, betas=(0.9, 0.99))
        seed = int(kept.heads.sum() + kept.channels.sum())  # another one in every round
        generator = torch.Generator().manual_seed(seed)
        windows = len(candidates.windows)
        for chosen in batches(windows, 1, self.passes * windows, seed):
            gates = Factors(
                kept.heads * drawn(heads, generator).gather(1, owners) if heads.requires_grad else kept.heads,
                kept.channels * drawn(channels, generator) if channels.requires_grad else kept.channels,
            )
            with multiplied(candidates.model, gates):
                backward(candidates.model, candidates.teacher, candidates.windows[chosen])
            torch.autograd.backward([self.penalty * open_probability(odds).sum() for odds in trained])
            optimiser.step()
            optimiser.zero_grad()
        return UnitCosts.of(Factors(heads.detach().gather(1, owners), channels))


def _start(before: UnitCosts | None, kept: Factors) -> tuple[torch.Tensor, torch.Tensor]:
    """The log odds (layers, heads), (layers, channels) from which training goes on."""
    import torch

    if before is None:
        return torch.full_like(kept.heads, START), torch.full_like(kept.channels, START)
    return torch.from_numpy(before.heads.copy()), torch.from_numpy(before.channels.copy())


def drawn(odds: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A gate within 0 and 1, ends included, for each of the log odds."""
    import torch

    uniform = torch.rand(odds.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    return (torch.sigmoid((uniform.logit() + odds) / TEMPERATURE) * (HIGH - LOW) + LOW).clamp(0, 1)


def open_probability(odds: torch.Tensor) -> torch.Tensor:
    """That the gate is not 0."""
    return (odds - TEMPERATURE * math.log(-LOW / HIGH)).sigmoid()


def _owners(heads: torch.Tensor, spec: ModelSpec, *, whole_groups: bool) -> torch.Tensor:
    """(layers, heads) which head's gate each one has: its own, or its KV group's first one's."""
    import torch

    owners = torch.arange(heads.shape[1]).repeat(len(heads), 1)
    if whole_groups:
        for row, count, groups in zip(owners, spec.heads, spec.kv_heads, strict=True):
            row -= row % (count // groups)
    return owners
