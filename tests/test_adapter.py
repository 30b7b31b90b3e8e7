"""Merging LoRA adapters, against W + scaling * B A in float64."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import GEMMA, LLAMA, Tensors, random_tensors, save_folder, save_gguf
from safetensors.numpy import save_file

from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.errors import InputError

PREFIX = "base_model.model."
Q = "model.layers.0.self_attn.q_proj"
V = "model.layers.1.self_attn.v_proj"
DOWN = "model.layers.1.mlp.down_proj"
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "a/base"}


def low_rank(module: str, shape: tuple[int, int], rank: int = 4, seed: int = 0) -> Tensors:
    """A and B of a module whose weight has that shape, under peft's names."""
    generator = np.random.default_rng([seed, len(module), rank])
    return {
        f"{PREFIX}{module}.lora_A.weight": generator.standard_normal((rank, shape[1])).astype(np.float32),
        f"{PREFIX}{module}.lora_B.weight": generator.standard_normal((shape[0], rank)).astype(np.float32),
    }


def save_adapter(folder: Path, tensors: Tensors, **config: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def tensors() -> Tensors:
    return random_tensors(LLAMA)


@pytest.fixture
def base(tmp_path: Path, tensors: Tensors) -> Path:
    return save_folder(tmp_path / "base", LLAMA, tensors)


def check(base: Path, adapter: Path, tensors: Tensors, expected: Tensors) -> None:
    """The merged checkpoint has `expected` where that is stated and the base's own values elsewhere."""
    checkpoint = open_checkpoint(base, adapter=adapter)
    assert checkpoint.fingerprint == open_checkpoint(base).fingerprint
    assert str(adapter) in checkpoint.notes[-1]
    assert expected.keys() <= {tensor.name for tensor in checkpoint.tensors}
    for tensor in checkpoint.tensors:
        values = checkpoint.read(tensor.name)
        assert values.dtype == np.float32
        if tensor.name in expected:
            assert not np.allclose(values, tensors[tensor.name])
            np.testing.assert_allclose(values, expected[tensor.name], rtol=1e-5, atol=1e-5)
        else:
            assert np.array_equal(values, tensors[tensor.name])


def product(adapter: Tensors, module: str) -> np.ndarray[Any, Any]:
    """B A in float64."""
    a, b = (adapter[f"{PREFIX}{module}.lora_{part}.weight"].astype(np.float64) for part in "AB")
    return b @ a


@pytest.mark.parametrize("rslora", [False, True])
def test_merges_pairs(rslora: bool, tmp_path: Path, base: Path, tensors: Tensors) -> None:
    adapter = low_rank(Q, (32, 32)) | low_rank(V, (16, 32)) | low_rank(DOWN, (32, 64))
    scaling = 8 / math.sqrt(4) if rslora else 8 / 4
    expected = {f"{m}.weight": tensors[f"{m}.weight"] + scaling * product(adapter, m) for m in (Q, V, DOWN)}
    check(base, save_adapter(tmp_path / "a", adapter, use_rslora=rslora), tensors, expected)


def test_patterns_give_a_modules_rank_and_alpha(tmp_path: Path, base: Path, tensors: Tensors) -> None:
    adapter = low_rank(Q, (32, 32), rank=2) | low_rank(V, (16, 32)) | low_rank(DOWN, (32, 64))
    folder = save_adapter(
        tmp_path / "a",
        adapter,
        rank_pattern={"q_proj": 2, "proj": 9, "^self_attn.v_proj": 9, "yers.1.mlp.down_proj": 9},
        alpha_pattern={"^model.layers.1.self_attn.v_proj": 3, r"mlp\.down_proj": 16.0},
    )
    scalings = {Q: 8 / 2, V: 3 / 4, DOWN: 16 / 4}
    expected = {f"{m}.weight": tensors[f"{m}.weight"] + s * product(adapter, m) for m, s in scalings.items()}
    check(base, folder, tensors, expected)


def test_replaces_saved_modules_and_biases(tmp_path: Path) -> None:
    config = {**LLAMA, "attention_bias": True}
    tensors = random_tensors(config)
    base = save_folder(tmp_path / "base", config, tensors)
    names = ("lm_head.weight", "model.embed_tokens.weight", f"{Q}.bias", "model.norm.weight")
    expected = {name: tensors[name] * 2 + 1 for name in names}
    folder = save_adapter(tmp_path / "a", {PREFIX + name: values for name, values in expected.items()})
    check(base, folder, tensors, expected)


def test_merges_an_embedding(tmp_path: Path, base: Path, tensors: Tensors) -> None:
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((4, 96)), generator.standard_normal((32, 4))
    module = "model.embed_tokens"
    adapter = {f"{PREFIX}{module}.lora_embedding_A": a, f"{PREFIX}{module}.lora_embedding_B": b}
    expected = {f"{module}.weight": tensors[f"{module}.weight"] + 2 * (b @ a).T}
    check(base, save_adapter(tmp_path / "a", {k: v.astype(np.float32) for k, v in adapter.items()}), tensors, expected)


def test_merges_more_rows_than_one_piece(tmp_path: Path) -> None:
    config = {**LLAMA, "vocab_size": 5000}
    tensors = random_tensors(config)
    adapter = low_rank("lm_head", (5000, 32))
    expected = {"lm_head.weight": tensors["lm_head.weight"] + 2 * product(adapter, "lm_head")}
    base = save_folder(tmp_path / "base", config, tensors)
    check(base, save_adapter(tmp_path / "a", adapter), tensors, expected)


def test_pickled_adapter_with_adapter_names(tmp_path: Path, base: Path, tensors: Tensors) -> None:
    adapter = low_rank(Q, (32, 32))
    folder = save_adapter(tmp_path / "a", adapter)
    (folder / "adapter_model.safetensors").unlink()
    state = {key.replace(".weight", ".default.weight"): torch.from_numpy(value) for key, value in adapter.items()}
    torch.save(state, folder / "adapter_model.bin")
    check(base, folder, tensors, {f"{Q}.weight": tensors[f"{Q}.weight"] + 2 * product(adapter, Q)})


def test_merges_into_a_gguf(tmp_path: Path, base: Path, tensors: Tensors) -> None:
    """Q's rows are permuted in the file: the adapter is for the unpermuted ones."""
    adapter = low_rank(Q, (32, 32))
    path = save_gguf(tmp_path / "base.gguf", open_checkpoint(base))
    folder = save_adapter(tmp_path / "a", adapter)
    check(path, folder, tensors, {f"{Q}.weight": tensors[f"{Q}.weight"] + 2 * product(adapter, Q)})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "is a IA3 adapter"),
        ({"peft_type": None}, "is a None adapter"),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is not supported"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is not supported"),
        ({"lora_bias": True}, "lora_bias is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "initialised with pissa_niter_4, which changes the base"),
        ({"r": 8}, "has rank 4, but adapter_config.json says 8"),
        ({"r": None}, "has rank 4, but adapter_config.json says None"),
        ({"lora_alpha": "8"}, "lora_alpha is '8', not a number"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf, not a number"),
        ({"rank_pattern": {"q.*": 4}}, "rank_pattern 'q.*' is not a module's name"),
        ({"alpha_pattern": [1]}, "alpha_pattern is not an object"),
    ],
)
def test_refused_configs(config: dict[str, Any], message: str, tmp_path: Path, base: Path) -> None:
    folder = save_adapter(tmp_path / "a", low_rank(Q, (32, 32)), **config)
    with pytest.raises(InputError) as caught:
        open_checkpoint(base, adapter=folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


def pair(**change: Any) -> Tensors:
    """Q's pair with A or B replaced, or (None) left out."""
    names = {"A": f"{PREFIX}{Q}.lora_A.weight", "B": f"{PREFIX}{Q}.lora_B.weight"}
    result = low_rank(Q, (32, 32)) | {names[part]: value for part, value in change.items() if value is not None}
    return {name: value for name, value in result.items() if change.get(name[-8], value) is not None}


F32 = np.float32


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({}, "holds no tensors"),
        (low_rank("model.layers.7.self_attn.q_proj", (32, 32)), "changes base_model.model.model.layers.7.self_attn"),
        ({f"{PREFIX}{Q}.lora_magnitude_vector": np.ones(32, F32)}, "which the base does not have"),
        (pair(B=None), f"has only one of the two LoRA matrices of {Q}.weight"),
        (pair(A=None), f"has only one of the two LoRA matrices of {Q}.weight"),
        (pair(A=np.zeros((4, 31), F32)), f"[4, 31] does not fit the base's {Q}.weight [32, 32]"),
        (pair(A=np.zeros((3, 32), F32)), "does not fit"),
        (pair(A=np.zeros((0, 32), F32), B=np.zeros((32, 0), F32)), "does not fit"),
        (pair(A=np.zeros(32, F32)), "does not fit"),
        (pair(B=np.zeros((31, 4), F32)), "does not fit"),
        (pair(B=np.zeros((32, 4), np.int8)), "is stored as I8"),
        (pair() | {f"{PREFIX}{Q}.weight": np.zeros((32, 32), F32)}, "does not fit"),
        ({f"{PREFIX}{Q}.weight": np.zeros((32, 31), F32)}, f"does not fit the base's {Q}.weight [32, 32]"),
        (low_rank("model.embed_tokens", (96, 32)), "does not fit the base's model.embed_tokens.weight"),
    ],
)
def test_refused_tensors(adapter: Tensors, message: str, tmp_path: Path, base: Path) -> None:
    folder = save_adapter(tmp_path / "a", adapter)
    with pytest.raises(InputError) as caught:
        open_checkpoint(base, adapter=folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_tied_embedding_is_not_changed(tmp_path: Path) -> None:
    base = save_folder(tmp_path / "base", GEMMA, random_tensors(GEMMA))
    name = "model.embed_tokens.weight"
    folder = save_adapter(tmp_path / "a", {PREFIX + name: np.ones((96, 32), F32)})
    with pytest.raises(InputError, match=r"embed_tokens\.weight, which is tied to the head"):
        open_checkpoint(base, adapter=folder)


def test_folders_that_are_no_adapter(tmp_path: Path, base: Path) -> None:
    with pytest.raises(InputError, match=r"nothing has no adapter_config\.json"):
        open_checkpoint(base, adapter=tmp_path / "nothing")
    with pytest.raises(InputError, match=r"base has no adapter_config\.json"):
        open_checkpoint(base, adapter=base)
    folder = save_adapter(tmp_path / "a", low_rank(Q, (32, 32)))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors"):
        open_checkpoint(base, adapter=folder)


def test_nan_in_the_adapter(tmp_path: Path, base: Path) -> None:
    folder = save_adapter(tmp_path / "a", pair(B=np.full((32, 4), np.nan, F32)))
    checkpoint = open_checkpoint(base, adapter=folder)
    with pytest.raises(InputError, match=r"q_proj\.weight holds NaN or Inf"):
        checkpoint.read(f"{Q}.weight")
