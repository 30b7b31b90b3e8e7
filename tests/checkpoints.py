"""Small checkpoints made with numpy alone, for tests that damage them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.families import family_named, family_of
from edgekit.models.rope import ROPE_FACTORS, rope_factors

Tensors = dict[str, NDArray[Any]]

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
GEMMA: dict[str, Any] = {
    **LLAMA,
    "model_type": "gemma3_text",
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 16,
    "tie_word_embeddings": True,
}


def random_tensors(config: Mapping[str, Any], seed: int = 0) -> Tensors:
    """Random float32 values for every tensor that the config's family has, by Hugging Face name."""
    family, generator = family_of(config), np.random.default_rng(seed)
    specs = family.tensors(family.read_spec(config))
    return {spec.name: generator.standard_normal(spec.shape).astype(np.float32) for spec in specs}


def save_folder(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Path:
    """A Hugging Face folder with one safetensors file and no tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    save_file(dict(tensors), folder / "model.safetensors")
    return folder


def save_gguf(
    path: Path,
    checkpoint: Checkpoint,
    kind: str = "F32",
    *,
    factors: NDArray[np.float32] | None = None,
    **metadata: Any,
) -> Path:
    """The checkpoint as the gguf library writes it, matrices as `kind`; `metadata` replaces keys ("__" is a dot).

    Q and K rows are interleaved as llama.cpp's own conversion does it.
    """
    spec, family = checkpoint.spec, family_named(checkpoint.spec.family)
    writer = gguf.GGUFWriter(path, metadata.pop("architecture", spec.family))
    keys = family.gguf_metadata(spec) | {key.replace("__", "."): value for key, value in metadata.items()}
    for key, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif value is not None:
            writer.add_float32(key, value)
    factors = rope_factors(spec) if factors is None else factors
    if factors is not None:
        writer.add_tensor(ROPE_FACTORS, factors)
    for tensor in checkpoint.tensors:
        values = checkpoint.read(tensor.name) + np.float32(tensor.offset)
        if heads := tensor.rope_heads:
            halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        stored = gguf.GGMLQuantizationType[kind if len(tensor.shape) == 2 else "F32"]
        writer.add_tensor(tensor.gguf_name, gguf.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
