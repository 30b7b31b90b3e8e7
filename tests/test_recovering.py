"""Recovery: its first step against plain autograd and Adam, runs that were killed, and which step is kept."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_random import random_checkpoint
from pruned_models import structure_named

from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.errors import InputError
from edgekit.models.forward import load_model
from edgekit.quant import recovering
from edgekit.quant.cutting import cut
from edgekit.quant.recovering import Recovered, recover
from edgekit.quant.teacher import Teacher, judge

IDS = np.random.default_rng(0).integers(0, 4096, (10, 32))
SEEN, HELD_OUT = np.array([9, 0, 1, 2, 3, 4]), np.array([5, 6, 7, 8])
STEPS = 12


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.quant.training.TOKENS_PER_STEP", 64)  # two windows


def models(folder: Path, family: str = "llama") -> tuple[Any, Any, Teacher]:
    """The whole model, the pruned one, and the teacher."""
    checkpoint = open_checkpoint(random_checkpoint(folder / "model", family))
    whole = load_model(checkpoint)
    return whole, load_model(cut(checkpoint, structure_named("groups-per-layer", checkpoint.spec))), Teacher(whole, IDS)


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in model.state_dict().items()}


def run(model: Any, teacher: Teacher, folder: Path | None = None, steps: int = STEPS) -> Recovered:
    return recover(model, teacher, SEEN, HELD_OUT, steps=steps, seed=4, folder=folder)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_step_is_adams(tmp_path: Path, family: str) -> None:
    """The loss as it is defined, in float64, all at once; of the tensors only the layers' matrices move."""
    whole, pruned, teacher = models(tmp_path, family)
    before = state(pruned)
    ids = torch.from_numpy(IDS[[3, 9]])
    plain = copy.deepcopy(pruned).double().requires_grad_()
    log_p = whole(ids).logits.double().log_softmax(-1)
    log_q = plain(ids).logits.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    nll = -log_q[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    share = recovering.LABEL_SHARE
    (((1 - share) * kl[:, :-1] + share * nll).sum() + kl[:, -1].sum()).div(ids.numel()).backward()
    with recovering._student(pruned, teacher, HELD_OUT) as student:
        student.learn(np.array([3, 9]), 0.5)
    moved = 0
    for name, parameter in plain.named_parameters():
        step = (pruned.state_dict()[name] - before[name]).double()
        if parameter.ndim != 2 or ".layers." not in name:
            assert not step.any(), name
            continue
        moved += 1
        size = 0.5 * recovering.LEARNING_RATE * float(before[name].square().mean().sqrt())
        near = (step + size * parameter.grad.sign()).abs() < 0.02 * size  # Adam's first step
        assert near.double().mean() > 0.999, name
    assert moved == 21


def test_recovery_comes_nearer(tmp_path: Path) -> None:
    _, pruned, teacher = models(tmp_path)
    before = judge(pruned, teacher, HELD_OUT)
    result = run(pruned, teacher, steps=40)
    after = judge(pruned, teacher, HELD_OUT)
    share = recovering.LABEL_SHARE
    assert after.kl < before.kl
    assert result.steps == 40 and result.best_step > 0
    assert result.before == pytest.approx((1 - share) * before.kl + share * before.nll)
    assert result.after == pytest.approx((1 - share) * after.kl + share * after.nll)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in pruned.parameters())


def test_where_every_step_does_harm_the_start_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovering, "LEARNING_RATE", 3.0)
    _, pruned, teacher = models(tmp_path)
    before = state(pruned)
    result = run(pruned, teacher)
    assert result.best_step == 0 and result.after == result.before
    assert all(torch.equal(values, before[name]) for name, values in pruned.state_dict().items())


def test_it_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes a second: the rate falls to zero in the time that there is, also in a run that was killed."""
    now, rates = 0.0, list[float]()

    def learn(self: Any, windows: Any, rate: float) -> None:
        nonlocal now
        if len(rates) == 6:
            rates.append(0.0)
            raise Killed
        now += 1.0
        rates.append(rate)
        self.step += 1

    monkeypatch.setattr(recovering._Student, "learn", learn)
    monkeypatch.setattr(recovering.time, "perf_counter", lambda: now)
    _, pruned, teacher = models(tmp_path)
    arguments = {"steps": 1000, "seconds": 8.0, "folder": tmp_path / "work"}
    with pytest.raises(Killed):
        recover(pruned, teacher, SEEN, HELD_OUT, **arguments)
    now += 3600.0
    assert recover(pruned, teacher, SEEN, HELD_OUT, **arguments).steps == 8
    assert rates == pytest.approx([0.01, 0.875, 0.75, 0.625, 0.5, 0.375, 0.0, 0.25, 0.125])


class Killed(Exception):
    pass


@pytest.mark.parametrize(("killed_after", "still_to_do"), [(1, 12), (5, 7), (11, 1), (12, 0)])
def test_a_killed_run_goes_on_to_the_same_bytes(
    tmp_path: Path, killed_after: int, still_to_do: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, unbroken, teacher = models(tmp_path)
    expected = run(unbroken, teacher)
    learn, left = recovering._Student.learn, killed_after

    def until_killed(self: Any, windows: Any, rate: float) -> None:
        nonlocal left
        if not left:
            raise Killed
        learn(self, windows, rate)
        left -= 1

    monkeypatch.setattr(recovering._Student, "learn", until_killed)
    _, pruned, _ = models(tmp_path)
    with pytest.raises(Killed) if killed_after < STEPS else nullcontext():
        run(pruned, teacher, tmp_path / "work")
    left = STEPS
    _, again, _ = models(tmp_path)
    assert run(again, teacher, tmp_path / "work") == expected
    assert STEPS - left == still_to_do
    assert all(torch.equal(values, unbroken.state_dict()[name]) for name, values in again.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\x03\x04"])
def test_a_damaged_state_is_refused(tmp_path: Path, content: bytes) -> None:
    _, pruned, teacher = models(tmp_path)
    before = state(pruned)
    (tmp_path / recovering.STATE).write_bytes(content)
    with pytest.raises(InputError, match=r"recovery\.pt is damaged: remove it"):
        run(pruned, teacher, tmp_path)
    assert all(torch.equal(values, before[name]) for name, values in pruned.state_dict().items())
