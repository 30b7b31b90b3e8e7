"""The teacher's judgement and the mixed loss's gradient, against plain float64 autograd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_random import random_checkpoint

from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.forward import load_model, parts, replaced
from edgekit.quant.teacher import Teacher, backward, gradients_taken, judge, stride

IDS = np.random.default_rng(0).integers(0, 4096, (5, 80))  # 80 positions: a block of 64 rows and one of 16
CHOSEN = np.array([3, 1])
SHARE = 0.3


@pytest.fixture(params=[("llama", {}), ("gemma3", {"softcap": 5.0})], ids=["llama", "gemma3"])
def models(request: Any, tmp_path: Path) -> tuple[Any, Any, Any]:
    """(model to become the student, plain teacher, plain student), the latter two in float64."""
    family, options = request.param
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "model", family, **options))
    model = load_model(checkpoint)
    return checkpoint, model, load_model(checkpoint).double()


def changed(model: Any) -> dict[str, np.ndarray]:
    """Every parameter, a little moved."""
    generator = np.random.default_rng(5)
    return {
        name: (values + 0.03 * generator.normal(size=values.shape)).astype(np.float32)
        for name, values in ((name, parameter.numpy()) for name, parameter in model.named_parameters())
    }


def plain(model: Any, values: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """log p and log q (windows, T, V) of the chosen windows and the student's parameters, all float64."""
    ids = torch.from_numpy(IDS[CHOSEN])
    log_p = model(ids).logits.log_softmax(-1)
    weights = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in values.items()}
    tied = {} if "lm_head.weight" in weights else {"lm_head.weight": weights["model.embed_tokens.weight"]}
    log_q = torch.func.functional_call(model, weights | tied, (ids,)).logits.log_softmax(-1)
    return log_p, log_q, weights


@pytest.mark.parametrize(("first", "every"), [(0, 1), (30, 1), (0, 4), (30, 3)])
def test_a_judgement_is_that_of_plain_logits(
    models: tuple[Any, Any, Any], first: int, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.quant.teacher.HEAD_ROWS", 1000)  # of 4096: five pieces, the last not full
    checkpoint, model, double = models
    values = changed(model)
    teacher = Teacher(model, IDS)
    untouched = judge(model, teacher, CHOSEN, first=first, every=every)
    with replaced(model, values.items(), checkpoint.read):
        found = judge(model, teacher, CHOSEN, first=first, every=every)
    scored = np.arange(80)[first:][every - 1 :: every]
    log_p, log_q = (whole[:, scored] for whole in plain(double, values)[:2])
    assert found.kl == pytest.approx((log_p.exp() * (log_p - log_q)).sum(-1).mean().item(), rel=1e-4)
    predicting = scored[scored < 79]
    following = torch.from_numpy(IDS[CHOSEN])[:, predicting + 1, None]
    log_p, log_q = log_p[:, : len(predicting)], log_q[:, : len(predicting)]
    assert found.nll == pytest.approx(-log_q.gather(2, following).mean().item(), rel=1e-5)
    assert found.top1 == (log_q.argmax(-1) == following[..., 0]).double().mean().item()
    assert untouched.kl == pytest.approx(0, abs=1e-6)
    assert untouched.nll == pytest.approx(-log_p.gather(2, following).mean().item(), rel=1e-5)


def test_top1_counts_what_was_predicted(tmp_path: Path) -> None:
    """On its own greedy text a model is always right, but for ties."""
    model = load_model(open_checkpoint(random_checkpoint(tmp_path / "model", "llama")))
    ids = torch.tensor([[5]])
    for _ in range(20):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert judge(model, Teacher(model, ids.numpy()), np.array([0])).top1 == 1.0


@pytest.mark.parametrize(("share", "every"), [(0.0, 1), (SHARE, 1), (SHARE, 4)])
def test_gradients_equal_plain_autograd(
    models: tuple[Any, Any, Any], share: float, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.quant.teacher.LOGITS", 100 * 4096)  # 160 rows: two pieces, one not full
    monkeypatch.setattr("edgekit.quant.teacher.HEAD_ROWS", 1000)
    checkpoint, model, double = models
    values = changed(model)
    log_p, log_q, weights = plain(double, values)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    nll = -log_q[:, :-1].gather(2, torch.from_numpy(IDS[CHOSEN])[:, 1:, None])[..., 0]
    # a window's last position has no next token: all of its weight is the teacher's
    losses = torch.cat([(1 - share) * kl[:, :-1] + share * nll, kl[:, -1:]], dim=1)
    losses[:, every - 1 :: every].mean().backward()

    part, teacher = parts(model), Teacher(model, IDS)
    found = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    outer = {id(part.head.weight), id(part.embedding.weight)}
    takers = {p: found[name].add_ for name, p in model.named_parameters() if id(p) not in outer}
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}

    def add(parameter: torch.Tensor) -> Any:
        total = found[name_of[id(parameter)]]
        return lambda rows, gradient: total.index_add_(0, torch.from_numpy(rows), gradient)

    with replaced(model, values.items(), checkpoint.read), gradients_taken(takers):
        to_head, to_embedding = add(part.head.weight), add(part.embedding.weight)
        backward(model, teacher, CHOSEN, to_head=to_head, to_embedding=to_embedding, label_share=share, every=every)
    for name, expected in weights.items():
        assert expected.grad is not None
        difference = (found[name] - expected.grad).abs().max()
        assert difference < 1e-3 * expected.grad.abs().max(), name
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("short", [True, False], ids=["bfloat16", "float32"])
def test_the_teachers_logits_are_those_of_its_head_as_it_was(
    short: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.quant.teacher.HEAD_ROWS", 1000)
    model = load_model(open_checkpoint(random_checkpoint(tmp_path / "model", "llama")))
    head = model.lm_head.weight
    head.copy_(head.bfloat16() if short else head * 1.001)
    teacher = Teacher(model, IDS)
    states = teacher.states(CHOSEN)
    expected = states.double() @ head.double().T
    head.zero_()  # what the student makes of it later
    assert teacher.head_bytes == head.numel() * (2 if short else 4)
    found = torch.empty(len(states), len(head))
    teacher.all_logits(states, found)
    assert torch.allclose(found.double(), expected, atol=1e-5)
    assert torch.allclose(teacher.logits(states, slice(990, 1020)).double(), expected[:, 990:1020], atol=1e-5)


def test_few_positions_of_a_large_vocabulary_are_scored() -> None:
    assert (stride(512, 4096), stride(512, 151_936), stride(512, 262_144), stride(80, 262_144)) == (1, 2, 4, 1)
