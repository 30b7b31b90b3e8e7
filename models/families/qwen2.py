"""Qwen2 and Qwen2.5: Llama's layout with biases on Q, K and V. GGUF architecture "qwen2"."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from edgekit.models.errors import InputError
from edgekit.models.families import decoder, fields
from edgekit.models.spec import ModelSpec, TensorSpec

name = "qwen2"
model_types: tuple[str, ...] = ("qwen2",)


def read_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The specification in a Hugging Face config; sliding layers cap the context at their window (see `decoder`)."""
    fields.require(config, "hidden_act", "silu", "silu")
    spec = decoder.spec(
        name,
        config,
        context=decoder.windowed_context(config),
        rope=fields.rope(config),
        tied=fields.flag(config, "tie_word_embeddings"),
        qkv_bias=True,
    )
    if any(heads * spec.head_dim != spec.hidden for heads in spec.heads):
        raise InputError(
            f"config.json: {spec.heads[0]} heads of {spec.head_dim} are not hidden_size {spec.hidden}: "
            "no GGUF of architecture qwen2 can express that"
        )
    return spec


def tensors(spec: ModelSpec) -> tuple[TensorSpec, ...]:
    """Every stored tensor, in file order."""
    return decoder.tensors(spec)


def gguf_metadata(spec: ModelSpec) -> dict[str, Any]:
    """The `qwen2.*` keys."""
    return decoder.gguf_metadata(spec)


def config_from_gguf(metadata: Mapping[str, Any], tensor_names: Set[str]) -> dict[str, Any]:
    """The Hugging Face config of a GGUF of this architecture."""
    config = decoder.config_from_gguf(name, metadata, tensor_names)
    config.update(architectures=["Qwen2ForCausalLM"], hidden_act="silu", use_sliding_window=False)
    return config
