"""Repair against numpy's least squares on what plain forward passes see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_random import random_checkpoint
from pruned_models import structure_named

from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.forward import load_model, parts
from edgekit.quant import repair as module
from edgekit.quant.cutting import cut
from edgekit.quant.repair import repair
from edgekit.quant.structure import Structure
from edgekit.quant.teacher import Teacher

IDS = np.random.default_rng(0).integers(0, 4096, (14, 24))
SEEN, HELD_OUT = np.arange(10), np.arange(10, 14)
FAMILIES = [("llama", {}), ("llama", {"bias": True}), ("qwen3", {}), ("gemma3", {})]


def models(folder: Path, family: str, name: str = "groups-per-layer", **options: Any) -> tuple[Any, Any, Teacher]:
    checkpoint = open_checkpoint(random_checkpoint(folder / "model", family, **options))
    whole = load_model(checkpoint)
    pruned = load_model(cut(checkpoint, structure_named(name, checkpoint.spec)))
    return whole, pruned, Teacher(whole, IDS)


@dataclass(frozen=True)
class Seen:
    """A projection's inputs x and outputs y, the stream before and after these are added: (W, T, .), float64."""

    x: np.ndarray
    y: np.ndarray
    before: np.ndarray
    after: np.ndarray


def seen_by(model: Any, layer: int, projection: str) -> Seen:
    """By plain hooks."""
    block = parts(model).layers[layer]
    attention = projection == "self_attn.o_proj"
    middle = getattr(block, "pre_feedforward_layernorm", block.post_attention_layernorm)
    kept: dict[str, torch.Tensor] = {}
    handles = [
        block.get_submodule(projection).register_forward_hook(lambda _m, args, y: kept.update(x=args[0], y=y)),
        block.register_forward_pre_hook(lambda _m, args: kept.update(start=args[0])),
        middle.register_forward_pre_hook(lambda _m, args: kept.update(middle=args[0].clone())),
        block.register_forward_hook(lambda _m, _a, end: kept.update(end=end)),
    ]
    model(torch.from_numpy(IDS))
    for handle in handles:
        handle.remove()
    streams = ("start", "middle") if attention else ("middle", "end")
    return Seen(*(kept[name].double().numpy() for name in ("x", "y", *streams)))


def norm_after(model: Any, layer: int, projection: str) -> tuple[np.ndarray | None, float]:
    """The gains (D,) and epsilon of the norm between the projection and the stream; Gemma's only."""
    block = parts(model).layers[layer]
    if not hasattr(block, "post_feedforward_layernorm"):
        return None, 0.0
    name = "post_attention_layernorm" if projection == "self_attn.o_proj" else "post_feedforward_layernorm"
    norm = block.get_submodule(name)
    return 1 + norm.weight.double().numpy(), norm.eps


def added(y: np.ndarray, gain: np.ndarray | None, eps: float) -> np.ndarray:
    return y if gain is None else gain * y / np.sqrt(np.square(y).mean(axis=-1, keepdims=True) + eps)


def least_squares(x: np.ndarray, error: np.ndarray, weights: np.ndarray, gain: np.ndarray, ridge: float) -> np.ndarray:
    """(D, K) row by row by numpy.linalg.lstsq: the ridge is equations of their own."""
    roots = np.sqrt(weights).reshape(-1, 1)
    a, b = roots * x.reshape(-1, x.shape[-1]), roots * error.reshape(-1, error.shape[-1])
    level = np.sqrt(ridge * np.square(a).sum() / a.shape[1] * np.square(gain).mean())
    rows = []
    for row, factor in enumerate(gain):
        left = np.concatenate([factor * a, level * np.eye(a.shape[1])])
        rows.append(np.linalg.lstsq(left, np.concatenate([b[:, row], np.zeros(a.shape[1])]), rcond=None)[0])
    return np.stack(rows)


@pytest.mark.parametrize(("family", "options"), FAMILIES)
@pytest.mark.parametrize("projection", ["self_attn.o_proj", "mlp.down_proj"])
def test_a_projection_is_refitted_by_least_squares(
    tmp_path: Path, family: str, options: dict[str, Any], projection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first that is refitted at all: what it sees is what pruning left."""
    whole, pruned, teacher = models(tmp_path, family, **options)
    gain, eps = norm_after(pruned, 0, projection)
    wanted, now = seen_by(whole, 0, projection), seen_by(pruned, 0, projection)
    linear = parts(pruned).layers[0].get_submodule(projection)
    x = now.x if linear.bias is None else np.concatenate([now.x, np.ones((*now.x.shape[:2], 1))], axis=2)
    error, weights = wanted.after - now.after, 1 / np.square(wanted.after).mean(axis=-1)
    frozen = 1.0 if gain is None else 1 / np.sqrt(np.square(now.y).mean(axis=-1, keepdims=True) + eps)
    before, columns = linear.weight.double().numpy().copy(), linear.in_features
    bias = None if linear.bias is None else linear.bias.double().numpy().copy()

    def held_out(change: np.ndarray) -> float:
        left = (wanted.after - now.before - added(now.y + x @ change.T, gain, eps))[10:]
        return float((np.square(left).mean(axis=2) * weights[10:]).mean())

    gains = np.ones(len(before)) if gain is None else gain
    inputs = (x * frozen)[:10]
    changes = {ridge: least_squares(inputs, error[:10], weights[:10], gains, ridge) for ridge in module.RIDGES}
    best = min(changes, key=lambda ridge: held_out(changes[ridge]))
    if projection == "mlp.down_proj":  # o_proj, which comes before, stays as it is
        real = module._Walk._refit
        ridges = iter([(), tuple(changes)])

        def refit(self: Any, *args: Any) -> Any:
            monkeypatch.setattr(module, "RIDGES", next(ridges, ()))
            return real(self, *args)

        monkeypatch.setattr(module._Walk, "_refit", refit)
    refits = {refit.name: refit for refit in repair(whole, pruned, teacher, SEEN, HELD_OUT).refits}
    refit = refits[f"model.layers.0.{projection}"]
    assert refit.ridge == best
    assert refit.before == pytest.approx(held_out(np.zeros_like(changes[best])), rel=1e-4)
    assert refit.after == pytest.approx(held_out(changes[best]), rel=1e-3)
    size = np.abs(changes[best]).max()
    np.testing.assert_allclose(linear.weight.numpy() - before, changes[best][:, :columns], atol=2e-3 * size)
    if bias is not None:
        np.testing.assert_allclose(linear.bias.numpy() - bias, changes[best][:, columns], atol=2e-3 * size)


@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_every_error_is_that_of_the_repaired_model(tmp_path: Path, family: str, options: dict[str, Any]) -> None:
    """The last projection's error, of which all before are part, against plain forward passes of both models."""
    whole, pruned, teacher = models(tmp_path, family, **options)
    refits = repair(whole, pruned, teacher, SEEN, HELD_OUT).refits
    assert [refit.name for refit in refits] == [
        f"model.layers.{layer}.{projection}"
        for layer in range(3)
        for projection in ("self_attn.o_proj", "mlp.down_proj")
    ]
    assert all(refit.after < refit.before for refit in refits if refit.ridge is not None)
    assert any(refit.ridge is not None for refit in refits)
    wanted, now = (seen_by(model, 2, "mlp.down_proj").after[10:] for model in (whole, pruned))
    error = (np.square(wanted - now).mean(axis=2) / np.square(wanted).mean(axis=2)).mean()
    assert refits[-1].after == pytest.approx(error, rel=1e-3)


def test_what_gains_nothing_on_windows_held_out_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fitted to 24 tokens with no ridge to speak of, 32 columns follow these and nothing else."""
    monkeypatch.setattr(module, "RIDGES", (1e-9,))
    whole, pruned, teacher = models(tmp_path, "llama")
    before = {name: values.clone() for name, values in pruned.state_dict().items()}
    refits = repair(whole, pruned, teacher, SEEN[:1], HELD_OUT).refits
    assert all(refit.ridge is None and refit.after == refit.before for refit in refits)
    assert all(torch.equal(values, before[name]) for name, values in pruned.state_dict().items())


def test_a_model_that_lost_nothing_is_left_alone(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "model", "llama"))
    whole, same = load_model(checkpoint), load_model(cut(checkpoint, Structure.full(checkpoint.spec)))
    before = {name: values.clone() for name, values in same.state_dict().items()}
    refits = repair(whole, same, Teacher(whole, IDS), SEEN, HELD_OUT).refits
    assert all(refit.ridge is None for refit in refits)
    assert all(torch.equal(values, before[name]) for name, values in same.state_dict().items())
