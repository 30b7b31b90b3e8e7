"""Llama's graph with counts of each layer's own, as pruning leaves a Llama, Mistral or Qwen2. GGUF architecture "deci".

llama.cpp's graphs of those architectures take the first layer's counts for all, and Qwen2's also hidden / heads for
head_dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

from edgekit.models.families import decoder, llama, qwen2
from edgekit.models.spec import ModelSpec, TensorSpec

name = decoder.DECI
model_types: tuple[str, ...] = ()  # a config.json keeps the model_type that it had


def read_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The specification in the config that `config_from_gguf` makes."""
    spec = qwen2.read_spec(config) if config["model_type"] == "qwen2" else llama.read_spec(config)
    return replace(spec, family=name)


def tensors(spec: ModelSpec) -> tuple[TensorSpec, ...]:
    """Every stored tensor; Q and K rows in Llama's order, whichever family they come from."""
    return decoder.tensors(spec, interleaved=True)


def gguf_metadata(spec: ModelSpec) -> dict[str, Any]:
    """The `deci.*` keys."""
    return decoder.gguf_metadata(spec)


def config_from_gguf(metadata: Mapping[str, Any], tensor_names: Set[str]) -> dict[str, Any]:
    """The Hugging Face config of a GGUF of this architecture: Qwen2's where Q has a bias and the output has none."""
    config = decoder.config_from_gguf(name, metadata, tensor_names)
    biased = "blk.0.attn_q.bias" in tensor_names and "blk.0.attn_output.bias" not in tensor_names
    return config | (qwen2.class_settings() if biased else llama.class_settings(tensor_names))
