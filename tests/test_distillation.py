"""Distillation: its gradients against plain float64 autograd, and what it may and may not change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_random import random_checkpoint, variant_id

from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.divergence import first_scored
from edgekit.models.forward import load_model, replaced
from edgekit.models.spec import MATRIX_ROLES
from edgekit.quant import distillation
from edgekit.quant.distillation import distil
from edgekit.quant.formats import Blocks, Format, format_of
from edgekit.quant.formats.block_scales import read_scales, with_scales
from edgekit.quant.teacher import Teacher, judge
from edgekit.quant.training import Training, batches, windows_per_step

IDS = np.random.default_rng(0).integers(0, 4096, (6, 32))
HELD_OUT = np.random.default_rng(1).integers(0, 4096, (2, 32))
NARROW = ("q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1", "q8_0", "f16")
WIDE = ("q4_k", "q5_k", "q6_k", "q4_0")
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("llama", {}),
    ("llama", {"tied": True, "hidden": 256, "ffn": 256, "layers": 1}),
    ("qwen2", {"tied": True}),
    ("qwen3", {}),
    ("gemma3", {"softcap": 5.0}),
    ("gemma3", {"tied": False}),
)

Rounded = dict[str, tuple[Format, Blocks]]


def opened(folder: Path, variant: tuple[str, dict[str, Any]]) -> tuple[Checkpoint, Any, Rounded]:
    """A checkpoint, its model, and its matrices rounded to all kinds of types in turn."""
    checkpoint = open_checkpoint(random_checkpoint(folder / "model", variant[0], **variant[1]))
    names = [tensor.name for tensor in checkpoint.tensors if tensor.role in MATRIX_ROLES]
    kinds = WIDE if checkpoint.spec.hidden % 256 == 0 else NARROW
    rounded = {}
    for index, name in enumerate(names):
        format = format_of(kinds[index % len(kinds)])
        rounded[name] = (format, format.encode(checkpoint.read(name), None))
    return checkpoint, load_model(checkpoint), rounded


def run(
    model: Any,
    checkpoint: Checkpoint,
    rounded: Rounded,
    *,
    steps: int = 10,
    seconds: float = 1e9,
    held_out: np.ndarray = HELD_OUT,
) -> Training:
    return distil(model, checkpoint, rounded, IDS, held_out, steps=steps, seconds=seconds, seed=3)


class Dense:
    """The plain way: matrices as float64 functions of each field of their rows' scales, all logits, autograd."""

    def __init__(self, checkpoint: Checkpoint, rounded: Rounded, vocabulary: bool) -> None:
        double = load_model(checkpoint).double()
        ids = torch.from_numpy(IDS)
        log_p = double(ids).logits.log_softmax(-1)
        self.matrices: dict[str, torch.Tensor] = {}  # logarithm of the rows' scales (N, F)
        weights: dict[str, torch.Tensor] = {}
        for name, (format, blocks) in rounded.items():
            weights[name] = torch.from_numpy(format.decode(blocks)).double()
            if format.scales and (vocabulary or ".layers." in name):
                fields = fields_of(format, blocks)
                change = torch.zeros(len(blocks), len(fields), dtype=torch.float64, requires_grad=True)
                self.matrices[name] = change
                weights[name] = sum(change[:, i, None].exp() * field for i, field in enumerate(fields))
        self.vectors: dict[str, torch.Tensor] = {}
        for tensor in checkpoint.tensors:
            if tensor.role not in MATRIX_ROLES:
                start = torch.from_numpy(checkpoint.read(tensor.name)).double()
                change = self.vectors[tensor.name] = torch.zeros_like(start, requires_grad=True)
                weights[tensor.name] = start + (start + tensor.offset).square().mean().sqrt() * change
        if checkpoint.spec.tied:
            weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        log_q = torch.func.functional_call(double, weights, (ids,)).logits.log_softmax(-1)
        kls = (log_p.exp() * (log_p - log_q)).sum(-1)
        self.scored_kl = kls[:, first_scored(IDS.shape[1]) :].mean().item()
        kls.mean().backward()


def fields_of(format: Format, blocks: Blocks) -> list[torch.Tensor]:
    """What each field of scales makes of the weights, (N, K) float64: they are linear in it, so a difference tells."""
    scales, whole = read_scales(format, blocks), torch.from_numpy(format.decode(blocks)).double()
    fields = []
    for field in range(scales.shape[2]):
        doubled = scales.copy()
        doubled[:, :, field] *= 2
        fields.append(torch.from_numpy(format.decode(with_scales(format, blocks, doubled))).double() - whole)
    return fields


@pytest.mark.parametrize("vocabulary", [False, True], ids=["layers", "vocabulary"])
@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_every_gradient_equals_plain_autograd(
    tmp_path: Path, variant: tuple[str, dict[str, Any]], vocabulary: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.quant.teacher.LOGITS", 100 * 4096)  # 192 rows: two pieces, the last not full
    checkpoint, model, rounded = opened(tmp_path, variant)
    dense = Dense(checkpoint, rounded, vocabulary)
    everything = np.arange(len(IDS))
    teacher = Teacher(model, IDS)
    tokens = 4096 * distillation.TOKENS_PER_ROW - (not vocabulary)
    values = ((name, format.decode(blocks)) for name, (format, blocks) in rounded.items())
    with (
        replaced(model, values, checkpoint.read),
        distillation._student(model, checkpoint, rounded, teacher, everything, tokens) as student,
    ):
        assert student.judge() == pytest.approx(dense.scored_kl, rel=1e-4)
        for _ in range(2):  # a second step starts from nothing
            student.gradients(everything)
        assert set(student.matrices) == set(dense.matrices)
        assert set(student.vectors) == set(dense.vectors)
        for name, matrix in student.matrices.items():
            assert_close(matrix.change.grad, dense.matrices[name].grad, name)
        for name, vector in student.vectors.items():
            assert_close(vector.change.grad, dense.vectors[name].grad, name)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_what_is_judged_is_the_average_of_all_steps_that_counts_later_ones_more(tmp_path: Path) -> None:
    checkpoint, model, rounded = opened(tmp_path, ("llama", {}))
    teacher = Teacher(model, IDS)
    values = ((name, format.decode(blocks)) for name, (format, blocks) in rounded.items())
    with (
        replaced(model, values, checkpoint.read),
        distillation._student(model, checkpoint, rounded, teacher, np.arange(2), 0) as student,
    ):
        norm = student.vectors["model.norm.weight"]
        steps, unit = [], np.sqrt(np.mean(checkpoint.read("model.norm.weight") ** 2))
        for step in range(5):
            student.judge()  # which does not change what is learnt
            student.learn(np.array([step]), 1.0)
            steps.append(norm.change.numpy().copy())
        shares = [math.comb(step + distillation.AVERAGING, distillation.AVERAGING) for step in range(5)]
        change = np.average(steps, axis=0, weights=shares)
        found = student.weights().vectors["model.norm.weight"] - checkpoint.read("model.norm.weight")
    assert np.abs(change).max() > distillation.VECTOR_RATE
    assert np.allclose(found, unit * change, atol=1e-6)


def assert_close(found: torch.Tensor | None, expected: torch.Tensor | None, what: str) -> None:
    assert found is not None and expected is not None
    scale = expected.square().mean().sqrt()
    assert scale > 0, what
    assert (found - expected).square().mean().sqrt() < 1e-3 * scale, what
    assert (found - expected).abs().max() < 2e-3 * expected.abs().max(), what


def test_the_kl_falls_and_the_file_stays_of_the_same_types_and_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "SCALE_RATE", 2e-3)
    checkpoint, model, rounded = opened(tmp_path, ("llama", {}))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    made = run(model, checkpoint, rounded, held_out=IDS)
    assert made.in_time and made.after < 0.9 * made.before
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])  # the model is left as it was
    assert set(made.weights.blocks) == set(rounded)
    assert set(made.weights.vectors) == {
        tensor.name for tensor in checkpoint.tensors if tensor.role not in MATRIX_ROLES
    }
    for name, (format, blocks) in rounded.items():
        if not format.scales or ".layers." not in name:
            assert made.weights.blocks[name] is blocks
            continue
        assert not np.array_equal(made.weights.blocks[name], blocks)
        assert np.array_equal(with_scales(format, made.weights.blocks[name], read_scales(format, blocks)), blocks)
    assert made.after == pytest.approx(kl_of(model, checkpoint, rounded, made), rel=1e-5)


def kl_of(model: Any, checkpoint: Checkpoint, rounded: Rounded, made: Training) -> float:
    """The KL of what training returned."""
    teacher = Teacher(model, IDS)
    values = {
        name: format.decode(made.weights.blocks[name]) for name, (format, _) in rounded.items()
    } | made.weights.vectors
    with replaced(model, values.items(), checkpoint.read):
        return judge(model, teacher, np.arange(len(IDS)), first=first_scored(IDS.shape[1])).kl


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, model, rounded = opened(tmp_path, ("gemma3", {}))
    first, second = (run(model, checkpoint, rounded, held_out=IDS) for _ in range(2))
    assert first.after < first.before
    assert first.after == second.after
    for name in rounded:
        assert np.array_equal(first.weights.blocks[name], second.weights.blocks[name])
    for name, values in first.weights.vectors.items():
        assert np.array_equal(values, second.weights.vectors[name])
    other = distil(model, checkpoint, rounded, IDS, IDS, steps=10, seconds=1e9, seed=4)
    assert any(not np.array_equal(first.weights.blocks[name], other.weights.blocks[name]) for name in rounded)


def test_a_harmful_training_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "SCALE_RATE", 0.5)
    checkpoint, model, rounded = opened(tmp_path, ("llama", {}))
    made = run(model, checkpoint, rounded)
    assert made.after == made.before
    for name, (_, blocks) in rounded.items():
        assert np.array_equal(made.weights.blocks[name], blocks)
    for name, values in made.weights.vectors.items():
        assert np.array_equal(values, checkpoint.read(name))


def test_time_ends_training(tmp_path: Path) -> None:
    checkpoint, model, rounded = opened(tmp_path, ("llama", {}))
    made = run(model, checkpoint, rounded, seconds=1e-3)
    assert made.steps == 1 and not made.in_time
    assert made.after <= made.before


def test_every_window_is_taken_once_a_pass_and_large_vocabularies_take_fewer_at_once() -> None:
    order = batches(7, 4, 6, seed=0)
    assert [len(batch) for batch in order] == [4, 3, 4, 3, 4, 3]
    for first in range(0, 6, 2):
        assert sorted(np.concatenate(order[first : first + 2])) == list(range(7))
    assert any(not np.array_equal(order[0], batch) for batch in order[2::2])
    assert all(np.array_equal(*pair) for pair in zip(order, batches(7, 4, 6, seed=0), strict=True))
    assert windows_per_step(512, 4096) == 4
    assert windows_per_step(512, 262144) == windows_per_step(4096, 262144) == 1
