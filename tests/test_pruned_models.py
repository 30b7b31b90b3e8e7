"""A model without its pruned heads computes what the unpruned one does with them masked, in every runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from models_random import random_checkpoint, random_model
from numpy.typing import NDArray
from pruned_models import CUTS, masked, structure_named, write_pruned
from stock_llama_cpp import llama_cpp_logits

from edgekit.export.gguf import write_gguf
from edgekit.models.checkpoint import Checkpoint, open_checkpoint
from edgekit.models.families.counts import loads_in_transformers
from edgekit.models.forward import load_model
from edgekit.models.spec import MATRIX_ROLES
from edgekit.models.tokenizer import load_tokenizer
from edgekit.quant.cutting import cut
from edgekit.quant.formats import format_of
from edgekit.quant.structure import KeptLayer, Structure
from edgekit.runtimes import native, torch_reference

# What a config.json of each family can have that pruning meets: biases, tying, windows.
MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("llama", {}),
    ("llama", {"bias": True, "tied": True}),
    ("mistral", {}),
    ("qwen2", {}),
    ("qwen3", {"tied": True}),
    ("gemma3", {}),
)
FFN = {"all": (), "per-layer": (64, 96, 32), "uniform": (64, 64, 64)}
CASES = [
    *[(family, options, name, "all") for family, options in MODELS for name in CUTS],
    *[(family, options, "mixed-per-layer", "per-layer") for family, options in MODELS],
    *[(family, options, "groups-uniform", "uniform") for family, options in MODELS],
]
cases = pytest.mark.parametrize(
    ("family", "options", "name", "ffn"), CASES, ids=["-".join([c[0], *c[1], c[2], c[3]]) for c in CASES]
)
TOKENS = np.random.default_rng(1).integers(2, 4096, (1, 40))


def relative(values: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(values - expected).max() / np.abs(expected).max())


def pair(tmp_path: Path, family: str, options: dict[str, Any], name: str, ffn: str) -> tuple[Checkpoint, Any, Any]:
    """The pruned checkpoint, the unpruned model and the structure."""
    whole = open_checkpoint(random_checkpoint(tmp_path / "model", family, **options))
    structure = structure_named(name, whole.spec, FFN[ffn])
    pruned = open_checkpoint(write_pruned(whole, structure, tmp_path / "pruned"))
    return pruned, random_model(family, **options), structure


def logits(model: Any) -> NDArray[np.float32]:
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS)).logits[0].numpy()


def gguf_file(checkpoint: Checkpoint, path: Path) -> Path:
    names = [tensor.name for tensor in checkpoint.tensors if tensor.role in MATRIX_ROLES]
    blocks = ((name, format_of("f32").encode(checkpoint.read(name), None)) for name in names)
    write_gguf(checkpoint, load_tokenizer(checkpoint), blocks, dict.fromkeys(names, "f32"), path)
    return path


@cases
def test_cut_is_masked(family: str, options: dict[str, Any], name: str, ffn: str, tmp_path: Path) -> None:
    pruned, model, structure = pair(tmp_path, family, options, name, ffn)
    complete = logits(model)
    with masked(model, structure):
        expected = logits(model)
    assert relative(complete, expected) > 0.01
    assert relative(logits(load_model(pruned)), expected) < 1e-5
    assert relative(logits(load_model(cut(open_checkpoint(tmp_path / "model"), structure))), expected) < 1e-5
    assert (pruned.spec.heads, pruned.spec.kv_heads) == (structure.heads, structure.kv_heads)
    assert pruned.spec.ffn == structure.ffn


@cases
def test_runtimes_agree(family: str, options: dict[str, Any], name: str, ffn: str, tmp_path: Path) -> None:
    pruned, model, structure = pair(tmp_path, family, options, name, ffn)
    with masked(model, structure):
        expected = logits(model)
    path = gguf_file(pruned, tmp_path / "pruned.gguf")
    tokens = TOKENS[0].tolist()
    reference = torch_reference.load(path, context=None, threads=1)
    assert relative(reference.score(tokens, 0), expected) < 1e-5
    session = native.load(path, context=None, threads=1, float_activations=True)
    assert relative(session.score(tokens, 0), expected) < 1e-4
    again = open_checkpoint(path)
    assert again.tensors == pruned.tensors
    for tensor in pruned.tensors:
        np.testing.assert_allclose(again.read(tensor.name), pruned.read(tensor.name), rtol=0, atol=1e-6)


@cases
def test_stock_llama_cpp(family: str, options: dict[str, Any], name: str, ffn: str, tmp_path: Path) -> None:
    """All that is like Llama, whatever the counts; the others where all layers have the same."""
    pruned, model, structure = pair(tmp_path, family, options, name, ffn)
    path = gguf_file(pruned, tmp_path / "pruned.gguf")
    tokens = TOKENS[0].tolist()
    if not pruned.spec.runs_in_llama_cpp:
        assert family in ("qwen3", "gemma3")
        with pytest.raises(ValueError, match="refuses"):
            llama_cpp_logits(path, tokens)
        return
    with masked(model, structure):
        expected = logits(model)
    assert relative(llama_cpp_logits(path, tokens), expected) < (1e-3 if family == "gemma3" else 3e-5)  # a GELU table


def test_a_llama_that_its_class_refuses_becomes_a_mistral(tmp_path: Path) -> None:
    """3 heads of 16 in 64 dimensions."""
    whole = open_checkpoint(random_checkpoint(tmp_path / "model", "llama", kv_heads=1))
    structure = Structure(whole.spec, tuple(KeptLayer((0,), (heads,)) for heads in ((0, 1, 3), (1, 2, 3), (0, 1, 2))))
    pruned = open_checkpoint(write_pruned(whole, structure, tmp_path / "pruned"))
    model = random_model("llama", kv_heads=1)
    with masked(model, structure):
        expected = logits(model)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(pruned.path, dtype=torch.float32).eval()
    assert isinstance(loaded, transformers.MistralForCausalLM)
    for values in (logits(loaded), logits(load_model(pruned))):
        assert relative(values, expected) < 1e-5
    assert pruned.spec.context == whole.spec.context
    path = gguf_file(pruned, tmp_path / "pruned.gguf")
    assert relative(llama_cpp_logits(path, TOKENS[0].tolist()), expected) < 3e-5


@cases
def test_transformers_loads_what_it_can(
    family: str, options: dict[str, Any], name: str, ffn: str, tmp_path: Path
) -> None:
    pruned, model, structure = pair(tmp_path, family, options, name, ffn)
    if not loads_in_transformers(pruned.config, pruned.spec):
        assert not pruned.spec.uniform or options.get("bias")
        with pytest.raises(Exception):  # noqa: B017 - its config class and its weights refuse in ways of their own
            transformers.AutoModelForCausalLM.from_pretrained(pruned.path)
        return
    with masked(model, structure):
        expected = logits(model)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(pruned.path, dtype=torch.float32).eval()
    assert relative(logits(loaded), expected) < 1e-5
    config = json.loads((pruned.path / "config.json").read_text())
    assert type(loaded).__name__ == config["architectures"][0]
