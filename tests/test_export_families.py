"""Each family's F32 GGUF in stock llama.cpp against transformers: the same logits at every position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models_random import VARIANTS, VOCAB, random_checkpoint, random_model, variant_id
from stock_llama_cpp import llama_cpp_logits

from edgekit.export.gguf import write_gguf
from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.spec import MATRIX_ROLES
from edgekit.models.tokenizer import load_tokenizer
from edgekit.quant.formats import format_of

LENGTH = 120  # longer than every sliding window of a gemma3 variant
TOLERANCE = 3e-5  # of the largest logit; measured: below 1e-5
GELU_TOLERANCE = 1e-3  # ggml looks GELU up in a table of float16; measured: below 5e-4


def export(folder: Path, path: Path, format_name: str) -> None:
    checkpoint = open_checkpoint(folder)
    names = [tensor.name for tensor in checkpoint.tensors if tensor.role in MATRIX_ROLES]
    blocks = ((name, format_of(format_name).encode(checkpoint.read(name), None)) for name in names)
    write_gguf(checkpoint, load_tokenizer(checkpoint), blocks, dict.fromkeys(names, format_name), path)


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_logits_equal_transformers(variant: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    import torch

    family, options = variant
    folder = random_checkpoint(tmp_path / "model", family, **options)
    model = random_model(family, **{key: value for key, value in options.items() if key != "shard_bytes"})
    export(folder, tmp_path / "model.gguf", "f32")
    # A variant's context can be shorter: where llama.cpp lacks the window, up to the window both are the same.
    length = min(LENGTH, open_checkpoint(folder).spec.context)
    tokens = np.random.default_rng(1).integers(0, VOCAB, length).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    got = llama_cpp_logits(tmp_path / "model.gguf", tokens)
    error = np.abs(got - expected).max(axis=1) / np.abs(expected).max()
    assert error.max() < (GELU_TOLERANCE if family == "gemma3" else TOLERANCE), (error.max(), int(error.argmax()))
    assert np.abs(expected).max() > 1  # logits that would show a difference


@pytest.mark.parametrize("format_name", ["q8_0", "q4_0", "f16", "bf16"])
def test_permuted_blocks_are_the_permuted_rows(format_name: str, tmp_path: Path) -> None:
    """Quantised Q and K rows of a Llama, interleaved as blocks, compute what the decoded weights compute."""
    import torch

    folder = random_checkpoint(tmp_path / "model", "llama", bias=True)
    export(folder, tmp_path / "model.gguf", format_name)
    model, format = random_model("llama", bias=True), format_of(format_name)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                rounded = format.decode(format.encode(parameter.numpy(), None))
                parameter.copy_(torch.from_numpy(rounded))
        tokens = np.random.default_rng(2).integers(0, VOCAB, 40).tolist()
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    got = llama_cpp_logits(tmp_path / "model.gguf", tokens)
    # llama.cpp rounds activations to 8 bits (or the weights' 16) for these products.
    assert np.linalg.norm(got - expected) < 0.1 * np.linalg.norm(expected)
