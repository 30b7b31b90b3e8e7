"""Scores of heads and channels against finite differences, norms by hand and units that do nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_random import random_checkpoint
from pruned_models import CUTS, masked, structure_named

from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.forward import load_model, parts
from edgekit.quant.factors import Factors, multiplied
from edgekit.quant.head_scores import SCORES, Candidates, Gates, HeadScore, Magnitude, Taylor
from edgekit.quant.head_scores.gates import START, drawn
from edgekit.quant.structure import Kind, Structure
from edgekit.quant.teacher import Teacher, backward

IDS = np.random.default_rng(0).integers(0, 4096, (3, 40))
STEP = 3e-3


def opened(folder: Path, family: str = "llama", **options: Any) -> tuple[Checkpoint, Any]:
    checkpoint = open_checkpoint(random_checkpoint(folder / "model", family, **options))
    return checkpoint, load_model(checkpoint)


def candidates(
    model: Any, structure: Structure, kinds: tuple[Kind, ...] = ("heads", "channels"), windows: int = 3
) -> Candidates:
    return Candidates(model, Teacher(model, IDS), np.arange(windows), structure, kinds)


@pytest.mark.parametrize("name", CUTS)
def test_factors_of_a_structure_are_its_mask(tmp_path: Path, name: str) -> None:
    checkpoint, model = opened(tmp_path)
    structure = structure_named(name, checkpoint.spec, channels=(96, 50, 64))
    ids = torch.from_numpy(IDS)
    with masked(model, structure):
        expected = model(ids).logits
    with multiplied(model, Factors.keeping(structure)):
        assert torch.equal(model(ids).logits, expected)
    assert not torch.equal(model(ids).logits, expected)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_gradients_of_factors_equal_finite_differences(tmp_path: Path, family: str) -> None:
    """Of the KL, at random factors; the differences are of a model in float64, though its norms compute in float32."""
    checkpoint, model = opened(tmp_path, family)
    double, ids = load_model(checkpoint).double(), torch.from_numpy(IDS[[2, 0]])
    log_p = double(ids).logits.log_softmax(-1)
    generator = torch.Generator().manual_seed(1)
    start = Factors.keeping(Structure.full(checkpoint.spec))
    for values in (start.heads, start.channels):
        values.mul_(torch.rand(values.shape, generator=generator))
    teacher, found = Teacher(model, IDS), start.trainable()
    with multiplied(model, found):
        backward(model, teacher, np.array([2, 0]))
    for name, places in (("heads", ((0, 0), (1, 3), (2, 2))), ("channels", ((0, 5), (2, 95)))):
        gradient = getattr(found, name).grad
        for place in places:
            sides = []
            for step in (STEP, -STEP):
                moved = Factors(start.heads.clone(), start.channels.clone())
                getattr(moved, name)[place] += step
                with multiplied(double, moved):
                    log_q = double(ids).logits.log_softmax(-1)
                sides.append((log_p.exp() * (log_p - log_q)).sum(-1).mean().item())
            slope = (sides[0] - sides[1]) / (2 * STEP)
            assert float(gradient[place]) == pytest.approx(slope, rel=1e-3, abs=1e-5)


def test_taylor_is_the_mean_square_of_each_windows_derivative(tmp_path: Path) -> None:
    checkpoint, model = opened(tmp_path, "qwen3")
    structure = structure_named("heads-per-layer", checkpoint.spec)
    found, teacher = Taylor().score(candidates(model, structure)), Teacher(model, IDS)
    heads, channels = np.zeros(found.heads.shape), np.zeros(found.channels.shape)
    for window in range(3):
        factors = Factors.keeping(structure).trainable()
        with multiplied(model, factors):
            backward(model, teacher, np.array([window]), label_share=1.0)
        assert factors.heads.grad is not None and factors.channels.grad is not None
        heads += factors.heads.grad.numpy() ** 2 / 3
        channels += factors.channels.grad.numpy() ** 2 / 3
    np.testing.assert_allclose(found.heads, heads, rtol=1e-4)
    np.testing.assert_allclose(found.channels, channels, rtol=1e-4)


def test_magnitude_is_a_product_of_norms(tmp_path: Path) -> None:
    checkpoint, model = opened(tmp_path, head_dim=32)
    found = Magnitude().score(candidates(model, Structure.full(checkpoint.spec)))
    for layer in range(3):
        read = {
            name: checkpoint.read(f"model.layers.{layer}.{name}_proj.weight")
            for name in ("self_attn.o", "self_attn.v", "mlp.down", "mlp.up")
        }
        for head in range(4):
            columns, rows = slice(head * 32, head * 32 + 32), slice(head // 2 * 32, head // 2 * 32 + 32)
            norm = np.linalg.norm(read["self_attn.o"][:, columns]) * np.linalg.norm(read["self_attn.v"][rows])
            assert found.heads[layer, head] == pytest.approx(norm, rel=1e-5)
        for channel in (0, 95):
            norm = np.linalg.norm(read["mlp.down"][:, channel]) * np.linalg.norm(read["mlp.up"][channel])
            assert found.channels[layer, channel] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("name", SCORES)
def test_what_does_nothing_costs_least_and_the_model_stays(tmp_path: Path, name: str) -> None:
    """A KV group and a channel whose outputs nobody reads; another layer has lost heads already."""
    checkpoint, model = opened(tmp_path)
    layer = parts(model).layers[1]
    layer.self_attn.o_proj.weight[:, 32:64] = 0  # heads 2 and 3: the second group
    layer.mlp.down_proj.weight[:, 7] = 0
    before = {key: values.clone() for key, values in model.state_dict().items()}
    score: HeadScore = Gates(passes=20) if name == "gates" else SCORES[name]
    structure = structure_named("heads-per-layer", checkpoint.spec)
    costs = score.score(candidates(model, structure, ("groups", "channels")))
    kept = np.where(structure.head_mask(), costs.heads, np.inf)
    groups = kept[1].reshape(2, 2).sum(axis=1)
    assert groups[1] < groups[0]
    if name != "gates":  # next to closed gates much of a random model does harm, and costs less than nothing
        assert set(np.argsort(kept, axis=None)[:2]) == {6, 7}
        assert costs.channels[1].argmin() == 7
    assert all(torch.equal(values, before[key]) for key, values in model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_gates_keep_the_sum_of_their_log_odds(tmp_path: Path) -> None:
    """And what does nothing moves by the penalty alone, which is the same for all."""
    checkpoint, model = opened(tmp_path)
    parts(model).layers[1].mlp.down_proj.weight[:, [7, 50]] = 0
    odds = Gates(passes=5).score(candidates(model, Structure.full(checkpoint.spec))).channels
    assert odds.mean() == pytest.approx(START, rel=1e-5)
    assert odds[1, 7] == odds[1, 50] and len(np.unique(odds)) > 250


def test_a_group_that_goes_as_a_whole_has_one_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, model = opened(tmp_path)
    full, used = Structure.full(checkpoint.spec), []

    def watched(model: Any, factors: Factors) -> Any:
        used.append(factors)
        return multiplied(model, factors)

    monkeypatch.setattr("edgekit.quant.head_scores.gates.multiplied", watched)
    of_groups = Gates(passes=4).score(candidates(model, full, ("groups",)))
    for gates in used:
        assert not torch.equal(gates.heads, torch.ones_like(gates.heads))
        assert torch.equal(gates.heads[:, 0::2], gates.heads[:, 1::2]) and bool((gates.channels == 1).all())
    of_heads = Gates(passes=4).score(candidates(model, full, ("heads",)))
    assert len(used) == 24 and not torch.equal(used[-1].heads[:, 0::2], used[-1].heads[:, 1::2])
    assert len(np.unique(of_groups.heads)) == 6 < len(np.unique(of_heads.heads))
    assert len(np.unique(of_groups.channels)) == 1  # not asked for


def test_gates_go_on_from_the_round_before(tmp_path: Path) -> None:
    checkpoint, model = opened(tmp_path)
    first = candidates(model, Structure.full(checkpoint.spec))
    costs = Gates().score(first)
    second = replace(first, structure=structure_named("heads-uniform", checkpoint.spec), before=costs)
    standing, moving = Gates(rate=0.0).score(second), Gates(rate=0.001).score(second)
    for name in ("heads", "channels"):
        assert np.array_equal(getattr(standing, name), getattr(costs, name))
        step = np.abs(getattr(moving, name) - getattr(costs, name))
        assert 0 < step.max() < 0.05


def test_gates_are_open_as_often_as_their_log_odds_say() -> None:
    """By the distribution function of a stretched concrete variable at 0."""
    generator = torch.Generator().manual_seed(3)
    for odds in (-2.0, 0.0, 3.0):
        gates = drawn(torch.full((100_000,), odds), torch.rand(100_000, generator=generator))
        assert gates.min() == 0 and gates.max() == 1
        probability = 1 / (1 + math.exp(2 / 3 * math.log(0.1 / 1.1) - odds))
        assert (gates > 0).double().mean().item() == pytest.approx(probability, abs=0.005)
