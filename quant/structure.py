"""Which query heads, KV groups and feed-forward channels of a model are kept, and what may go next.

What GGUF and the runtimes can carry is the rule: within a layer every kept KV group has the same number of query heads.
So heads go one from every group of a layer at once, or a KV group goes with all of its heads; layers may differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError
from edgekit.models.spec import ModelSpec, TensorSpec

Kind = Literal["heads", "groups", "channels"]
Costs = NDArray[np.floating]  # (layers, most heads of a layer), for channels (layers, most channels of a layer)

ROW_BLOCK = 32  # the formats' smallest block: o_proj's and down_proj's columns stay a multiple of it
CHANNEL_BLOCK = 256  # the K-quants' block, by which channels go where a layer has several of it


@dataclass(frozen=True)
class KeptLayer:
    """What is kept of one layer, by its index in the unpruned model."""

    groups: tuple[int, ...]  # KV groups
    heads: tuple[tuple[int, ...], ...]  # query heads of each of these groups, as many in every one
    channels: tuple[int, ...] | None = None  # of the feed-forward; None means all

    @property
    def flat_heads(self) -> tuple[int, ...]:
        """All query heads that are kept, in order."""
        return tuple(head for group in self.heads for head in group)


@dataclass(frozen=True)
class Structure:
    """What is kept of each layer of the model that `spec` describes."""

    spec: ModelSpec  # of the unpruned model
    layers: tuple[KeptLayer, ...]

    @classmethod
    def full(cls, spec: ModelSpec) -> Structure:
        """Everything kept."""
        layers = []
        for heads, groups in zip(spec.heads, spec.kv_heads, strict=True):
            size = heads // groups
            members = tuple(tuple(range(group * size, (group + 1) * size)) for group in range(groups))
            layers.append(KeptLayer(tuple(range(groups)), members))
        return cls(spec, tuple(layers))

    @property
    def heads(self) -> tuple[int, ...]:
        """Query heads kept per layer."""
        return tuple(len(layer.flat_heads) for layer in self.layers)

    @property
    def kv_heads(self) -> tuple[int, ...]:
        """KV groups kept per layer."""
        return tuple(len(layer.groups) for layer in self.layers)

    @property
    def ffn(self) -> tuple[int, ...]:
        """Feed-forward channels kept per layer."""
        return tuple(
            size if layer.channels is None else len(layer.channels)
            for layer, size in zip(self.layers, self.spec.ffn, strict=True)
        )

    @property
    def pruned_spec(self) -> ModelSpec:
        """The specification of the model that is left."""
        return replace(self.spec, heads=self.heads, kv_heads=self.kv_heads, ffn=self.ffn)

    def removed(self, kind: Kind) -> tuple[int, ...]:
        """Query heads (of `kind` "heads" and "groups") or channels gone per layer."""
        before, after = (self.spec.ffn, self.ffn) if kind == "channels" else (self.spec.heads, self.heads)
        return tuple(whole - kept for whole, kept in zip(before, after, strict=True))

    def head_mask(self) -> NDArray[np.bool_]:
        """(layers, most heads of an unpruned layer): True where a query head is kept."""
        mask = np.zeros((self.spec.layers, max(self.spec.heads)), bool)
        for row, layer in zip(mask, self.layers, strict=True):
            row[list(layer.flat_heads)] = True
        return mask

    def channel_mask(self) -> NDArray[np.bool_]:
        """(layers, most channels of an unpruned layer): True where a feed-forward channel is kept."""
        mask = np.zeros((self.spec.layers, max(self.spec.ffn)), bool)
        for index, row in enumerate(mask):
            row[self.kept_channels(index)] = True
        return mask

    def kept_channels(self, layer: int) -> NDArray[np.intp]:
        """The indices of a layer's kept feed-forward channels."""
        channels = self.layers[layer].channels
        return np.arange(self.spec.ffn[layer]) if channels is None else np.array(channels, np.intp)

    def head_rows(self, layer: int) -> NDArray[np.intp]:
        """The rows of a layer's q_proj, which are the columns of its o_proj, that are kept."""
        return _rows(self.layers[layer].flat_heads, self.spec.head_dim)

    def group_rows(self, layer: int) -> NDArray[np.intp]:
        """The rows of a layer's k_proj and v_proj that are kept."""
        return _rows(self.layers[layer].groups, self.spec.head_dim)

    def take(self, tensor: TensorSpec, values: NDArray[Any]) -> NDArray[Any]:
        """What is kept of a tensor of the unpruned model, in the checkpoint's row order."""
        if tensor.layer is None:
            return values
        module, leaf = tensor.name.split(".")[-2:]
        if module == "q_proj":
            return values[self.head_rows(tensor.layer)]
        if module in ("k_proj", "v_proj"):
            return values[self.group_rows(tensor.layer)]
        if module in ("gate_proj", "up_proj"):
            return values[self.kept_channels(tensor.layer)]
        if module == "o_proj" and leaf == "weight":
            return values[:, self.head_rows(tensor.layer)]
        if module == "down_proj" and leaf == "weight":
            return values[:, self.kept_channels(tensor.layer)]
        return values

    def without(self, unit: Unit) -> Structure:
        """The structure after that unit went."""
        return replace(
            self, layers=tuple(unit.after if i == unit.layer else layer for i, layer in enumerate(self.layers))
        )


def _rows(blocks: tuple[int, ...], size: int) -> NDArray[np.intp]:
    return (np.array(blocks, np.intp)[:, None] * size + np.arange(size)).reshape(-1)


@dataclass(frozen=True)
class Unit:
    """What can go at once: indices (query heads or channels) of one layer, their summed cost, what is left then."""

    kind: Kind
    layer: int
    removed: tuple[int, ...]
    cost: float
    after: KeptLayer


@dataclass(frozen=True)
class Goal:
    """How much is to go: `total` query heads or channels, no more than `per_layer` of each layer where given."""

    kind: Kind
    total: int
    per_layer: int | None = None


def goal(spec: ModelSpec, share: float, kind: Kind, *, uniform: bool = False) -> Goal:
    """The smallest number that can go and is at least `share` of all; `uniform`: the same number of every layer.

    Raises InputError, naming the nearest choice that works, where so much cannot go.
    """
    option = "--ffn" if kind == "channels" else "--heads"
    if not 0 < share < 1:
        raise InputError(f"{option} {share:g} is out of range: give a share between 0 and 1, as 0.3")
    sizes = spec.ffn if kind == "channels" else spec.heads
    steps = [_steps(spec, layer, kind) for layer in range(spec.layers)]
    most = [layer_steps[-1] for layer_steps in steps]
    if not any(most):
        raise InputError(_nothing(spec, kind, option))
    if uniform:
        common = sorted(set.intersection(*map(set, steps)))
        count = next((step for step in common if step * spec.layers >= share * sum(sizes) - 1e-9), None)
        if count is None:
            raise InputError(_too_much(option, share, common[-1] * spec.layers, sum(sizes), "the same of every layer"))
        return Goal(kind, count * spec.layers, count)
    wanted = math.ceil(share * sum(sizes) - 1e-9)
    if wanted > sum(most):
        raise InputError(_too_much(option, share, sum(most), sum(sizes), "something of every layer must stay"))
    size = math.gcd(*(step for layer_steps in steps for step in layer_steps))
    return Goal(kind, min(-(-wanted // size) * size, sum(most)))


def _nothing(spec: ModelSpec, kind: Kind, option: str) -> str:
    if kind == "channels":
        return f"{option}: no layer's feed-forward channels can be cut and stay a multiple of {ROW_BLOCK}: leave it out"
    if kind == "heads" and max(spec.kv_heads) > 1:
        return (
            f"{option}: no KV group can lose a query head ({spec.heads[0] // spec.kv_heads[0]} in each of "
            f"{spec.kv_heads[0]}, of {spec.head_dim} columns): remove whole groups with --prune-kv-groups"
        )
    if kind == "groups" and max(spec.heads) > max(spec.kv_heads):
        return (
            f"{option}: no layer can lose one of its {spec.kv_heads[0]} KV groups: leave --prune-kv-groups out, then "
            "query heads go"
        )
    return f"{option}: no layer has heads to spare ({spec.heads[0]} of {spec.head_dim} columns): prune --ffn instead"


def _too_much(option: str, share: float, most: int, whole: int, why: str) -> str:
    nearest = math.floor(most / whole * 1000) / 1000
    advice = f"give {option} {nearest:g} at most" if nearest > 0 else f"leave {option} out"
    return f"{option} {share:g} is too much, as {why}: {most} of {whole} can go: {advice}"


def _steps(spec: ModelSpec, layer: int, kind: Kind) -> list[int]:
    """The numbers of heads or channels that can go from an unpruned layer, 0 first, ascending."""
    if kind == "channels":
        size = spec.ffn[layer]
        return list(range(0, size, _channel_block(size)))
    heads, groups = spec.heads[layer], spec.kv_heads[layer]
    columns = heads * spec.head_dim
    unit = groups if kind == "heads" else heads // groups
    fits = 1 if columns % ROW_BLOCK else ROW_BLOCK
    return [gone for gone in range(0, heads, unit) if (columns - gone * spec.head_dim) % fits == 0]


def _channel_block(size: int) -> int:
    if size % CHANNEL_BLOCK == 0 and size >= 4 * CHANNEL_BLOCK:
        return CHANNEL_BLOCK
    return 1 if size % ROW_BLOCK else ROW_BLOCK


def units(structure: Structure, costs: Costs, goal: Goal) -> Iterator[Unit]:
    """What may go next, at most one unit of each layer: its cheapest.

    `costs` has the cost of each query head or channel by its index in the unpruned model; those already gone are not
    looked at. A unit is as small as the formats' blocks allow, and no layer loses its last.
    """
    removed = structure.removed(goal.kind)
    for layer, kept in enumerate(structure.layers):
        steps = _steps(structure.spec, layer, goal.kind)
        count = next((step - removed[layer] for step in steps if step > removed[layer]), None)
        if count is None or (goal.per_layer is not None and removed[layer] + count > goal.per_layer):
            continue
        if goal.kind == "channels":
            yield _cheapest_channels(structure, layer, costs[layer], count)
        elif goal.kind == "heads":
            yield _cheapest_heads(kept, layer, costs[layer], count // len(kept.groups))
        else:
            yield _cheapest_groups(kept, layer, costs[layer], count // len(kept.heads[0]))


def _cheapest_heads(kept: KeptLayer, layer: int, costs: Costs, each: int) -> Unit:
    """Of every group, its `each` cheapest heads."""
    gone = [sorted(group, key=lambda head: (costs[head], head))[:each] for group in kept.heads]
    removed = tuple(sorted(head for group in gone for head in group))
    heads = tuple(tuple(head for head in group if head not in removed) for group in kept.heads)
    return Unit("heads", layer, removed, _sum(costs, removed), replace(kept, heads=heads))


def _cheapest_groups(kept: KeptLayer, layer: int, costs: Costs, number: int) -> Unit:
    """The `number` KV groups whose heads together cost least."""
    ranked = sorted(range(len(kept.groups)), key=lambda place: (_sum(costs, kept.heads[place]), place))
    gone, stay = ranked[:number], sorted(ranked[number:])
    removed = tuple(sorted(head for place in gone for head in kept.heads[place]))
    groups, heads = tuple(kept.groups[place] for place in stay), tuple(kept.heads[place] for place in stay)
    return Unit("groups", layer, removed, _sum(costs, removed), replace(kept, groups=groups, heads=heads))


def _cheapest_channels(structure: Structure, layer: int, costs: Costs, number: int) -> Unit:
    channels = structure.kept_channels(layer)
    order = channels[np.argsort(costs[channels], kind="stable")]
    removed = tuple(sorted(order[:number].tolist()))
    after = replace(structure.layers[layer], channels=tuple(sorted(order[number:].tolist())))
    return Unit("channels", layer, removed, _sum(costs, removed), after)


def _sum(costs: Costs, indices: tuple[int, ...]) -> float:
    return float(np.sum(costs[list(indices)], dtype=np.float64))


def remove(structure: Structure, costs: Costs, goal: Goal, total: int) -> tuple[Structure, list[Unit]]:
    """Take the unit with the least cost per head or channel until at least `total` are gone; what went, in order."""
    went: list[Unit] = []
    while sum(structure.removed(goal.kind)) < total:
        unit = min(units(structure, costs, goal), key=lambda unit: (unit.cost / len(unit.removed), unit.layer))
        structure = structure.without(unit)
        went.append(unit)
    return structure, went
