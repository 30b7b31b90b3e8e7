"""Gates: a factor per unit, trained with the weights frozen.

Descent lowers KL(model || gated model) plus an L1 penalty on the gates' log odds of being open, of such a weight that
these keep their sum: under a fixed one either all gates close in the end, or all open so far that draws tell nothing. A
gate is stochastic, as in Voita et al., arXiv 1905.09418: hard concrete (Louizos et al., arXiv 1712.01312), which is
exactly 0 or exactly 1 most of the time and has a derivative in between. Plain factors do not work here: the next norm
divides out what the heads of a layer have in common, so that all shrink together and cost nothing, and a small one is
not one that can go. Nor do Adam's steps (Kingma and Ba, arXiv 1412.6980), in which a gate that matters ten times as
much as another opens no faster: here all gates of a kind share one scale. Draws come in mirrored pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
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
BETAS = (0.9, 0.99)
START = 2.0  # of the log odds: three in four draws are wide open


@dataclass(frozen=True)
class Gates:
    """Log odds of every gate, which go on from the round before; a KV group that goes as a whole has one gate."""

    passes: int = 1  # over the windows, in every round
    rate: float = 0.1  # of a step

    def score(self, candidates: Candidates) -> UnitCosts:
        """The log odds after one step for each window and pass."""
        import torch

        model, teacher = candidates.model, candidates.teacher
        kept, kinds = Factors.keeping(candidates.structure), candidates.kinds
        owners = _owners(kept.heads, candidates.structure.spec, whole_groups="groups" in kinds)
        heads, channels = _start(candidates.before, kept)
        trained = []
        if set(kinds) != {"channels"}:
            trained.append(_Trained(heads.requires_grad_(), torch.zeros_like(heads).scatter_(1, owners, kept.heads)))
        if "channels" in kinds:
            trained.append(_Trained(channels.requires_grad_(), kept.channels))
        seed = int(kept.heads.sum() + kept.channels.sum())  # another one in every round
        windows = len(candidates.windows)
        chance = _mirrored(kept, torch.Generator().manual_seed(seed))
        for chosen, uniform in zip(batches(windows, 1, self.passes * windows, seed), chance, strict=False):
            gates = Factors(
                kept.heads * drawn(heads, uniform.heads).gather(1, owners) if heads.requires_grad else kept.heads,
                kept.channels * drawn(channels, uniform.channels) if channels.requires_grad else kept.channels,
            )
            with multiplied(model, gates):
                backward(model, teacher, candidates.windows[chosen], every=teacher.stride)
            for gates_of_kind in trained:
                gates_of_kind.step(self.rate)
        return UnitCosts.of(Factors(heads.detach().gather(1, owners), channels))


@dataclass
class _Trained:
    """The gates of a kind, and the running means of their gradients."""

    odds: torch.Tensor
    alive: torch.Tensor  # 1 for gates in use, 0 for those of units that are gone, and of heads with another's gate
    steps: int = 0
    mean: torch.Tensor | float = 0.0
    square: torch.Tensor | float = 0.0  # mean over the gates in use

    def step(self, rate: float) -> None:
        """Along the gradient that is there, less what all gates in use have in common: that is the penalty's."""
        assert self.odds.grad is not None
        number = self.alive.sum()
        gradient = self.alive * (self.odds.grad - (self.alive * self.odds.grad).sum() / number)
        self.steps += 1
        self.mean = BETAS[0] * self.mean + (1 - BETAS[0]) * gradient
        self.square = BETAS[1] * self.square + (1 - BETAS[1]) * gradient.square().sum() / number
        mean, square = (
            value / (1 - beta**self.steps) for value, beta in zip((self.mean, self.square), BETAS, strict=True)
        )
        self.odds.data -= rate * mean / square.sqrt().clamp(min=1e-30)  # nothing moves where all are wide open
        self.odds.grad = None


def _start(before: UnitCosts | None, kept: Factors) -> tuple[torch.Tensor, torch.Tensor]:
    """The log odds (layers, heads), (layers, channels) from which training goes on."""
    import torch

    if before is None:
        return torch.full_like(kept.heads, START), torch.full_like(kept.channels, START)
    return torch.from_numpy(before.heads.copy()), torch.from_numpy(before.channels.copy())


def _mirrored(shaped: Factors, generator: torch.Generator) -> Iterator[Factors]:
    """Numbers from 0 to 1 for ever; every second time the mirror image, so that what chance closed is open next."""
    import torch

    while True:
        uniform = Factors(
            *(torch.rand(values.shape, generator=generator) for values in (shaped.heads, shaped.channels))
        )
        yield uniform
        yield Factors(1 - uniform.heads, 1 - uniform.channels)


def drawn(odds: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """A gate within 0 and 1, ends included, for each of the log odds and of the numbers drawn from 0 to 1."""
    import torch

    return (torch.sigmoid((uniform.clamp(1e-6, 1 - 1e-6).logit() + odds) / TEMPERATURE) * (HIGH - LOW) + LOW).clamp(
        0, 1
    )


def _owners(heads: torch.Tensor, spec: ModelSpec, *, whole_groups: bool) -> torch.Tensor:
    """(layers, heads) which head's gate each one has: its own, or its KV group's first one's."""
    import torch

    owners = torch.arange(heads.shape[1]).repeat(len(heads), 1)
    if whole_groups:
        for row, count, groups in zip(owners, spec.heads, spec.kv_heads, strict=True):
            row -= row % (count // groups)
    return owners
