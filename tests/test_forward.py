"""The reference forward pass against transformers' own loading, and KL with weights replaced against float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from models_random import VARIANTS, random_checkpoint, random_model, variant_id

from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.errors import InputError
from edgekit.models.forward import HeldOut, load_model, parts, quick_matmul, reference_logits, replaced

WINDOWS = np.random.default_rng(0).integers(0, 4096, (3, 40))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Any]:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path_factory.mktemp("gemma"), "gemma3"))
    return checkpoint, load_model(checkpoint)


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_loaded_model_is_transformers_own(tmp_path: Path, variant: tuple[str, dict[str, Any]]) -> None:
    family, options = variant
    folder = random_checkpoint(tmp_path / "model", family, **options)
    random_state = torch.get_rng_state()
    model = load_model(open_checkpoint(folder))
    assert torch.equal(torch.get_rng_state(), random_state), "weights were initialised at random before being read"
    expected = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = expected(torch.from_numpy(WINDOWS)).logits.numpy()
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for window, row in zip(WINDOWS, logits, strict=True):
        found = reference_logits(model, window, 15)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, row[15:], atol=2e-5)
    assert (parts(model).head.weight is parts(model).embedding.weight) == expected.config.tie_word_embeddings


def test_stored_bf16_loads_as_float32(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "model", "llama", dtype="bfloat16")
    model = load_model(open_checkpoint(folder))
    expected = random_model("llama").bfloat16().float()
    for (name, found), (_, value) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
        assert torch.equal(found, value), name


def test_missing_surplus_and_misshapen_tensors_are_refused_by_name(tied: tuple[Checkpoint, Any]) -> None:
    checkpoint, _ = tied
    *rest, last = checkpoint.tensors
    with pytest.raises(InputError, match=f"{last.name} is missing"):
        load_model(replace(checkpoint, tensors=tuple(rest)))
    with pytest.raises(InputError, match=r"has no tensor lm_head\.extra"):
        load_model(replace(checkpoint, tensors=(*checkpoint.tensors, replace(last, name="lm_head.extra"))))
    with pytest.raises(InputError, match=r"embed_tokens.*config\.json says"):
        load_model(replace(checkpoint, config={**checkpoint.config, "vocab_size": 4000}))


def test_replaced_changes_the_model_within_the_block_only(tied: tuple[Checkpoint, Any]) -> None:
    checkpoint, model = tied
    before = reference_logits(model, WINDOWS[0], 0)
    name = "model.embed_tokens.weight"
    doubled = 2 * checkpoint.read(name)
    with replaced(model, {name: doubled}.items(), checkpoint.read):
        assert torch.equal(parts(model).head.weight, torch.from_numpy(doubled))  # the tied head follows
        assert np.abs(reference_logits(model, WINDOWS[0], 0) - before).max() > 0.1
    assert np.array_equal(reference_logits(model, WINDOWS[0], 0), before)
    with pytest.raises(RuntimeError), replaced(model, {name: doubled}.items(), checkpoint.read):
        raise RuntimeError
    with (
        pytest.raises(InputError, match=r"its replacement \(4096, 3\)"),
        replaced(model, {name: doubled[:, :3]}.items(), checkpoint.read),
    ):
        pass
    with pytest.raises(KeyError), replaced(model, {name: doubled, "absent.weight": doubled}.items(), checkpoint.read):
        pass
    assert np.array_equal(reference_logits(model, WINDOWS[0], 0), before)


@pytest.mark.parametrize(
    ("family", "options"), [("gemma3", {"softcap": 5.0}), ("llama", {}), ("qwen2", {"tied": True})]
)
def test_held_out_kl_equals_the_dense_oracle(tmp_path: Path, family: str, options: dict[str, Any]) -> None:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "model", family, **options))
    model = load_model(checkpoint)
    held_out = HeldOut(model, WINDOWS, first=12)
    assert held_out.tokens == 3 * 28
    assert abs(held_out.kld()) < 1e-5
    rng = np.random.default_rng(1)
    change = {
        name: (checkpoint.read(name) + 0.01 * rng.standard_normal(checkpoint.read(name).shape)).astype(np.float32)
        for name in ("model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight")
    }
    p = _log_softmax(model)
    with replaced(model, change.items(), checkpoint.read):
        found, tokens, q = held_out.kld(), held_out.token_klds(), _log_softmax(model)
    each = (np.exp(p) * (p - q)).sum(-1)[:, 12:].flatten()
    np.testing.assert_allclose(tokens, each, rtol=2e-3, atol=2e-5)
    expected = float((np.exp(p) * (p - q)).sum(-1)[:, 12:].mean())
    assert expected > 1e-4
    assert found == pytest.approx(expected, rel=1e-2, abs=1e-5)  # the reference is kept in float16
    assert abs(held_out.kld()) < 1e-5


@pytest.mark.parametrize("shape", [(1, 640, 4096), (300, 640, 2048), (2048, 2048, 640)])
def test_quick_matmul_keeps_float32_and_restores_the_setting(shape: tuple[int, int, int]) -> None:
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(rows, inner, generator=generator), torch.randn(inner, columns, generator=generator)
    exact = a.double() @ b.double()
    before = torch.get_float32_matmul_precision()
    with quick_matmul():
        found = a @ b
    assert float((found - exact).norm() / exact.norm()) < 3e-6
    assert torch.get_float32_matmul_precision() == before


def _log_softmax(model: Any) -> np.ndarray:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.from_numpy(WINDOWS)).logits
    return logits.double().log_softmax(-1).numpy()
