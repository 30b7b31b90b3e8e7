"""Quantisation-aware training: its first step against plain autograd, and what it returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_random import random_checkpoint

from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.forward import load_model, parts, replaced
from edgekit.models.spec import MATRIX_ROLES
from edgekit.quant import qat
from edgekit.quant.formats import format_of
from edgekit.quant.qat import Finetuned, finetune
from edgekit.quant.teacher import Teacher, judge

IDS = np.random.default_rng(0).integers(0, 4096, (6, 32))
HELD_OUT = np.random.default_rng(1).integers(0, 4096, (2, 32))


def opened(folder: Path, family: str, **options: Any) -> tuple[Checkpoint, Any, dict[str, str]]:
    """A checkpoint, its model, and types: 8 bits, but for one matrix of 4 and one of 16."""
    checkpoint = open_checkpoint(random_checkpoint(folder / "model", family, **options))
    names = [tensor.name for tensor in checkpoint.tensors if tensor.role in MATRIX_ROLES]
    formats = dict.fromkeys(names, "q8_0") | {names[1]: "q4_0", names[2]: "f16"}
    return checkpoint, load_model(checkpoint), formats


def run(model: Any, checkpoint: Checkpoint, formats: dict[str, str], **options: Any) -> Finetuned:
    return finetune(model, checkpoint, formats, IDS, options.pop("held_out", HELD_OUT), **{"steps": 3, **options})


@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("llama", True), ("gemma3", True)])
def test_a_step_is_adafactors_on_the_gradient_at_the_rounded_weights(
    tmp_path: Path, family: str, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qat, "CHUNK_WEIGHTS", 1 << 10)
    checkpoint, model, formats = opened(tmp_path, family, tied=tied)
    expected = plain_step(checkpoint, formats)
    teacher = Teacher(model, np.concatenate([IDS, HELD_OUT]))
    with qat._student(model, checkpoint, formats, teacher, np.arange(6, 8)) as student:
        student.learn(np.arange(6), 1.0)
        found = {name: matrix._weights for name, matrix in student.matrices.items()}
        found |= {name: vector.parameter.detach().clone() for name, vector in student.vectors.items()}
        for name, matrix in student.matrices.items():  # what the model runs on next is the new weights, rounded anew
            format = format_of(formats[name])
            blocks = format.encode(matrix._weights.numpy(), None)
            assert np.array_equal(matrix.blocks, blocks)
            assert np.array_equal(matrix.parameter.numpy(), format.decode(blocks))
    assert set(found) == set(expected)
    for name, (start, end) in expected.items():
        step, wanted = found[name] - start, end - start
        assert wanted.abs().max() > 0, name
        # a step is a gradient over its own size: where that is next to nothing, float32 may turn its sign
        near = (step - wanted).abs() < 0.02 * wanted.abs().max()
        assert near.float().mean() > 0.999, name


def plain_step(checkpoint: Checkpoint, formats: dict[str, str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Every tensor before and after one step: the loss as it is defined, in float64, all at once."""
    double = load_model(checkpoint).double()
    ids = torch.from_numpy(IDS)
    log_p = double(ids).logits.log_softmax(-1)
    start = {tensor.name: torch.from_numpy(checkpoint.read(tensor.name)) for tensor in checkpoint.tensors}
    rounded = {
        name: torch.from_numpy(format_of(formats[name]).decode(format_of(formats[name]).encode(values.numpy(), None)))
        if name in formats
        else values
        for name, values in start.items()
    }
    leaves = {name: values.double().requires_grad_() for name, values in rounded.items()}
    tied = {"lm_head.weight": leaves["model.embed_tokens.weight"]} if checkpoint.spec.tied else {}
    log_q = torch.func.functional_call(double, leaves | tied, (ids,)).logits.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    nll = -log_q[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    share = qat.LABEL_SHARE
    (((1 - share) * kl[:, :-1] + share * nll).sum() + kl[:, -1].sum()).div(ids.numel()).backward()
    result = {}
    for name, values in start.items():
        end = values.clone()
        end.grad = leaves[name].grad.float()  # type: ignore[union-attr]
        torch.optim.Adafactor([end], lr=qat.LEARNING_RATE).step()
        result[name] = (values, end.detach())
    return result


def test_the_loss_falls_and_the_result_is_what_was_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qat, "LEARNING_RATE", 3e-3)
    checkpoint, model, formats = opened(tmp_path, "llama", tied=True)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    made = run(model, checkpoint, formats, steps=20, held_out=IDS)  # judged on its own text: it must get better there
    assert made.training.steps == 20 and made.training.in_time
    assert made.training.after < made.training.before
    assert made.trained.nll < made.rounded.nll
    assert made.original.kl == pytest.approx(0, abs=1e-6)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])  # the model is left as it was
        assert parameter.grad is None and not parameter.requires_grad
    weights = made.training.weights
    values = {name: format_of(formats[name]).decode(blocks) for name, blocks in weights.blocks.items()}
    assert set(values) == set(formats)
    with replaced(model, (values | weights.vectors).items(), checkpoint.read):
        found = judge(model, Teacher(load_model(checkpoint), IDS), np.arange(6))
    assert found == made.trained
    share = qat.LABEL_SHARE
    assert made.training.after == pytest.approx((1 - share) * found.kl + share * found.nll, rel=1e-6)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.quant.training.TOKENS_PER_STEP", 64)
    checkpoint, model, formats = opened(tmp_path, "llama")
    first, second, other = (run(model, checkpoint, formats, seed=seed, held_out=IDS) for seed in (3, 3, 4))
    assert first.trained == second.trained != first.rounded
    for name, blocks in first.training.weights.blocks.items():
        assert np.array_equal(blocks, second.training.weights.blocks[name])
    assert any(
        not np.array_equal(blocks, other.training.weights.blocks[name])
        for name, blocks in first.training.weights.blocks.items()
    )


def test_a_harmful_training_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qat, "LEARNING_RATE", 0.5)
    checkpoint, model, formats = opened(tmp_path, "llama")
    made = run(model, checkpoint, formats)
    assert made.training.after == made.training.before
    assert made.trained == made.rounded
    for name, blocks in made.training.weights.blocks.items():
        assert np.array_equal(blocks, format_of(formats[name]).encode(checkpoint.read(name), None))
    assert parts(model).head.weight.shape == (4096, 64)
