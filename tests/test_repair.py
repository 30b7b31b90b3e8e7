"""Repair against numpy's least squares on what plain forward passes see."""

from __future__ import annotations

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


def seen_by(model: Any, layer: int, projection: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A projection's inputs (W, T, K), outputs (W, T, D), and the stream after these are added, by plain hooks."""
    block = parts(model).layers[layer]
    module = block.get_submodule(projection)
    kept: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _m, args, output: kept.update(x=args[0], y=output)),
        block.register_forward_pre_hook(lambda _m, args: kept.update(start=args[0])),
        block.register_forward_hook(lambda _m, _a, output: kept.update(end=output)),
    ]
    model(torch.from_numpy(IDS))
    for handle in handles:
        handle.remove()
    after = kept["start"] + kept["y"] if projection == "self_attn.o_proj" else kept["end"]
    x, y, stream = (values.double().numpy() for values in (kept["x"], kept["y"], after))
    return x, y, stream


def least_squares(x: np.ndarray, error: np.ndarray, weights: np.ndarray, ridge: float) -> np.ndarray:
    """(D, K) by numpy.linalg.lstsq: the ridge is rows of their own."""
    rows = np.sqrt(weights).reshape(-1, 1)
    a, b = rows * x.reshape(-1, x.shape[-1]), rows * error.reshape(-1, error.shape[-1])
    level = ridge * np.square(a).sum() / a.shape[1]
    a = np.concatenate([a, np.sqrt(level) * np.eye(a.shape[1])])
    b = np.concatenate([b, np.zeros((x.shape[-1], b.shape[1]))])
    solution: np.ndarray = np.linalg.lstsq(a, b, rcond=None)[0].T
    return solution


@pytest.mark.parametrize(("family", "options"), FAMILIES)
@pytest.mark.parametrize("projection", ["self_attn.o_proj", "mlp.down_proj"])
def test_a_projection_is_refitted_by_least_squares(
    tmp_path: Path, family: str, options: dict[str, Any], projection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first that is refitted at all: what it sees is what pruning left."""
    whole, pruned, teacher = models(tmp_path, family, **options)
    wanted, now = seen_by(whole, 0, projection), seen_by(pruned, 0, projection)
    target, found = (wanted[1], now[1]) if family == "gemma3" else (wanted[2], now[2])
    x, error, weights = now[0], target - found, 1 / np.square(target).mean(axis=-1)
    linear = parts(pruned).layers[0].get_submodule(projection)
    if linear.bias is not None:
        x = np.concatenate([x, np.ones((*x.shape[:2], 1))], axis=2)
    before, columns = linear.weight.double().numpy().copy(), linear.in_features
    bias = None if linear.bias is None else linear.bias.double().numpy().copy()

    def held_out(change: np.ndarray) -> float:
        left = (error - x @ change.T)[10:]
        return float((np.square(left).mean(axis=2) * weights[10:]).mean())

    changes = {ridge: least_squares(x[:10], error[:10], weights[:10], ridge) for ridge in module.RIDGES}
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
    which = 1 if family == "gemma3" else 2
    wanted, now = (seen_by(model, 2, "mlp.down_proj")[which][10:] for model in (whole, pruned))
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
