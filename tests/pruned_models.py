"""Tiny models with heads, KV groups and feed-forward channels cut away, and the same models masked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.export.huggingface import write_folder
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.forward import parts
from edgekit.quant.cutting import cut
from edgekit.quant.structure import KeptLayer, Structure

# What is kept of three layers of 4 query heads in 2 KV groups: groups, heads of each.
CUTS: dict[str, tuple[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]], ...]] = {
    "heads-per-layer": (((0, 1), ((1,), (2,))), ((0, 1), ((0, 1), (2, 3))), ((0, 1), ((0,), (3,)))),
    "groups-per-layer": (((1,), ((2, 3),)), ((0, 1), ((0, 1), (2, 3))), ((0,), ((0, 1),))),
    "mixed-per-layer": (((0, 1), ((1,), (3,))), ((1,), ((2, 3),)), ((0,), ((1,),))),
    "heads-uniform": (((0, 1), ((1,), (2,))), ((0, 1), ((0,), (3,))), ((0, 1), ((1,), (3,)))),
    "groups-uniform": (((1,), ((2, 3),)), ((0,), ((0, 1),)), ((0,), ((0, 1),))),
}


def structure_named(name: str, spec: Any, channels: tuple[int, ...] = ()) -> Structure:
    """A structure of `CUTS`; `channels` so many feed-forward channels are kept of each layer, drawn at random."""
    rng = np.random.default_rng(5)
    layers = [KeptLayer(*kept) for kept in CUTS[name]]
    for index, count in enumerate(channels):
        kept = tuple(sorted(rng.choice(spec.ffn[index], count, replace=False).tolist()))
        layers[index] = replace(layers[index], channels=kept)
    return Structure(spec, tuple(layers))


def write_pruned(checkpoint: Checkpoint, structure: Structure, folder: Path) -> Path:
    """The cut checkpoint as a folder, nothing repaired."""
    pruned = cut(checkpoint, structure)
    write_folder(pruned, folder, pruned.read, config=pruned.config, texts={})
    return folder


@contextmanager
def masked(model: Any, structure: Structure) -> Iterator[None]:
    """The unpruned model with the outputs of what `structure` does not keep set to zero."""
    import torch

    handles = []
    heads = torch.from_numpy(structure.head_mask()).float()
    channels = torch.from_numpy(structure.channel_mask()).float()

    def multiply(mask: torch.Tensor) -> Any:
        return lambda module, inputs: (inputs[0] * mask,)

    for index, layer in enumerate(parts(model).layers):
        by_column = heads[index].repeat_interleave(structure.spec.head_dim)
        handles.append(layer.self_attn.o_proj.register_forward_pre_hook(multiply(by_column)))
        handles.append(layer.mlp.down_proj.register_forward_pre_hook(multiply(channels[index])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
