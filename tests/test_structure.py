"""Which heads, groups and channels may go, against a search over all that is allowed."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.models.errors import InputError
from edgekit.models.families import family_named
from edgekit.models.spec import ModelSpec
from edgekit.quant.structure import Goal, Kind, Structure, goal, remove, units


def spec_of(
    heads: int | list[int], kv_heads: int | list[int], *, layers: int = 3, head_dim: int = 32, ffn: int = 128
) -> ModelSpec:
    config: dict[str, Any] = {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": 128,
    }
    return family_named("qwen3").read_spec(config)


def costs_of(spec: ModelSpec, kind: Kind, seed: int) -> NDArray[np.floating]:
    shape = (spec.layers, max(spec.ffn if kind == "channels" else spec.heads))
    return np.random.default_rng(seed).permutation(np.prod(shape)).reshape(shape).astype(np.float64)


def cheapest_by_search(structure: Structure, costs: NDArray[np.floating], layer: int, kind: Kind) -> set[int]:
    """The smallest legal removal from one layer, of those the one with the least cost: every subset is looked at."""
    kept, spec = structure.layers[layer], structure.spec
    size = len(kept.heads[0])
    best: tuple[int, float, set[int]] | None = None
    for count in range(1, len(kept.flat_heads)):
        for gone in map(set, itertools.combinations(kept.flat_heads, count)):
            left = [len(set(group) - gone) for group in kept.heads]
            whole_groups = all(number in (0, size) for number in left)
            equal_cuts = len(set(left)) == 1
            if not (whole_groups if kind == "groups" else equal_cuts):
                continue
            if (len(kept.flat_heads) - count) * spec.head_dim % 32 and spec.heads[layer] * spec.head_dim % 32 == 0:
                continue
            found = (count, float(sum(costs[layer][head] for head in gone)), gone)
            best = found if best is None or found[:2] < best[:2] else best
    return set() if best is None else best[2]


@pytest.mark.parametrize("kind", ["heads", "groups"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(8, 4, 32), (6, 2, 32), (4, 1, 64), (8, 2, 16), (8, 4, 8), (3, 3, 20)]
)
def test_units_are_the_cheapest_that_are_legal(kind: Kind, heads: int, kv_heads: int, head_dim: int) -> None:
    spec = spec_of(heads, kv_heads, head_dim=head_dim)
    structure, costs = Structure.full(spec), costs_of(spec, kind, 3)
    for _ in range(4):
        found = {unit.layer: unit for unit in units(structure, costs, Goal(kind, 0))}
        for layer in range(spec.layers):
            expected = cheapest_by_search(structure, costs, layer, kind)
            assert set(found[layer].removed if layer in found else ()) == expected
        for unit in found.values():
            assert unit.cost == sum(costs[unit.layer][head] for head in unit.removed)
            structure = structure.without(unit)
            kept = structure.layers[unit.layer]
            assert not set(unit.removed) & set(kept.flat_heads)
            assert len({len(group) for group in kept.heads}) == 1
            size = heads // kv_heads
            assert all(
                head // size == group for group, own in zip(kept.groups, kept.heads, strict=True) for head in own
            )


def test_channels_go_by_blocks() -> None:
    for ffn, block in ((128, 32), (1024, 256), (512, 32), (96, 32), (100, 1)):
        spec = spec_of(2, 1, ffn=ffn)
        costs = costs_of(spec, "channels", 1)
        structure = Structure.full(spec)
        for unit in units(structure, costs, Goal("channels", 0)):
            assert unit.removed == tuple(sorted(np.argsort(costs[unit.layer])[:block]))
            assert set(unit.after.channels or ()) == set(range(ffn)) - set(unit.removed)


def test_the_cheapest_of_all_layers_goes_first_whatever_its_size() -> None:
    """Three layers of unequal counts: a unit of two heads at 3 is cheaper than one head at 2."""
    spec = spec_of([4, 2, 4], [2, 1, 4])
    costs = np.array([[1, 9, 2, 9], [2, 9, 0, 0], [9, 9, 9, 9]], float)
    structure, went = remove(Structure.full(spec), costs, Goal("heads", 3), 3)
    assert [(unit.layer, unit.removed, unit.cost) for unit in went] == [(0, (0, 2), 3.0), (1, (0,), 2.0)]
    assert structure.heads == (2, 1, 4)
    assert structure.kv_heads == (2, 1, 4)


@pytest.mark.parametrize("kind", ["heads", "groups", "channels"])
@pytest.mark.parametrize("uniform", [False, True])
def test_a_goal_is_reached_exactly_in_any_number_of_rounds(kind: Kind, uniform: bool) -> None:
    spec = spec_of(8, 4)
    target = goal(spec, 0.3, kind, uniform=uniform)
    whole = sum(spec.ffn if kind == "channels" else spec.heads)
    assert target.total >= 0.3 * whole
    assert target.total < 0.3 * whole + (max(spec.heads) if kind != "channels" else 96)
    structure = Structure.full(spec)
    for round_, total in enumerate((target.total // 3, target.total)):
        structure, _ = remove(structure, costs_of(spec, kind, round_), target, total)
    assert sum(structure.removed(kind)) == target.total
    if uniform:
        assert set(structure.removed(kind)) == {target.total // spec.layers}
    assert min(structure.heads) >= 1


def test_what_a_share_comes_to() -> None:
    sample = spec_of(8, 4, layers=8)
    assert goal(sample, 0.3, "groups") == Goal("groups", 20)
    assert goal(sample, 0.3, "heads") == Goal("heads", 20)
    assert goal(sample, 0.25, "groups", uniform=True) == Goal("groups", 16, 2)
    assert goal(sample, 0.26, "groups", uniform=True) == Goal("groups", 32, 4)
    gemma = spec_of(4, 1, layers=18, head_dim=256, ffn=2048)
    assert goal(gemma, 0.25, "heads", uniform=True) == Goal("heads", 18, 1)
    assert goal(gemma, 0.3, "heads") == Goal("heads", 22)
    assert goal(gemma, 0.1, "channels") == Goal("channels", 15 * 256)


@pytest.mark.parametrize(
    ("spec", "share", "kind", "uniform", "message"),
    [
        (spec_of(8, 4), 0.0, "heads", False, "--heads 0 is out of range"),
        (spec_of(8, 4), 1.0, "groups", False, "--heads 1 is out of range"),
        (spec_of(8, 4), 0.6, "heads", False, "12 of 24 can go: give --heads 0.5 at most"),
        (spec_of(8, 4), 0.8, "groups", True, "18 of 24 can go: give --heads 0.75 at most"),
        (spec_of(4, 4), 0.3, "heads", False, "remove whole groups with --prune-kv-groups"),
        (spec_of(4, 1), 0.3, "groups", False, "leave --prune-kv-groups out"),
        (spec_of(1, 1), 0.3, "heads", False, "prune --ffn instead"),
        (spec_of(2, 1, head_dim=16), 0.3, "heads", False, "prune --ffn instead"),  # 16 columns are no block of 32
        (spec_of(2, 2, head_dim=16), 0.3, "groups", False, "prune --ffn instead"),
        (spec_of(4, 2), 0.9, "channels", False, "288 of 384 can go: give --ffn 0.75 at most"),
    ],
)
def test_refusals_name_what_works(spec: ModelSpec, share: float, kind: Kind, uniform: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        goal(spec, share, kind, uniform=uniform)


def test_masks_and_rows_say_the_same() -> None:
    spec = spec_of([4, 2, 4], [2, 1, 4], head_dim=16, ffn=96)
    costs = costs_of(spec, "groups", 2)
    structure, _ = remove(Structure.full(spec), costs, Goal("groups", 4), 4)
    structure, _ = remove(structure, costs_of(spec, "channels", 2), Goal("channels", 32), 32)
    assert structure.head_mask().shape == (3, 4)
    assert not structure.head_mask()[1, 2:].any()
    for layer in range(3):
        columns = np.repeat(structure.head_mask()[layer], 16)
        assert np.array_equal(np.flatnonzero(columns), structure.head_rows(layer))
        assert np.array_equal(np.flatnonzero(structure.channel_mask()[layer]), structure.kept_channels(layer))
        assert len(structure.group_rows(layer)) == structure.kv_heads[layer] * 16
    assert structure.pruned_spec.heads == structure.heads
    assert sum(structure.removed("channels")) == 32
