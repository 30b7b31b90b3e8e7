"""Factors on what query heads and feed-forward channels hand on: 1 leaves a unit as it was, 0 is one that is gone.

They multiply the inputs of the output projections (o_proj, down_proj), where a head has head_dim columns and a channel
has one: a model with zeros there computes what the model without those units computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.models.forward import parts
from edgekit.quant.structure import Structure

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Factors:
    """Per layer and unit, float32; of layers with fewer units than the largest the last few mean nothing."""

    heads: torch.Tensor  # (layers, heads)
    channels: torch.Tensor  # (layers, channels)

    @classmethod
    def keeping(cls, structure: Structure) -> Factors:
        """1 for what the structure keeps of its unpruned model, 0 for what it does not."""
        import torch

        return cls(torch.from_numpy(structure.head_mask()).float(), torch.from_numpy(structure.channel_mask()).float())

    def trainable(self) -> Factors:
        """A copy that takes gradients."""
        return Factors(*(factors.detach().clone().requires_grad_() for factors in (self.heads, self.channels)))


@contextmanager
def multiplied(model: Any, factors: Factors) -> Iterator[None]:
    """The model with those factors until the block ends; factors that require gradients get them."""

    def by(factors: torch.Tensor, layer: int, columns: int) -> Any:
        def hook(_module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (args[0] * factors[layer, : args[0].shape[-1] // columns].repeat_interleave(columns),)

        return hook

    handles: list[Any] = []
    try:
        for index, layer in enumerate(parts(model).layers):
            attention, feed_forward = layer.self_attn, layer.mlp
            heads, channels = by(factors.heads, index, attention.head_dim), by(factors.channels, index, 1)
            handles.append(attention.o_proj.register_forward_pre_hook(heads))
            handles.append(feed_forward.down_proj.register_forward_pre_hook(channels))
        yield
    finally:
        for handle in handles:
            handle.remove()
