"""Qwen2 and Qwen2.5: Llama's layout with biases on Q, K and V. GGUF architecture "qwen2"."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

from edgekit.models.families import decoder, fields
from edgekit.models.spec import ModelSpec, TensorSpec

name = "qwen2"
model_types: tuple[str, ...] = ("qwen2",)


def read_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The specification in a Hugging Face config; sliding layers cap the context at their window (see `decoder`).

    It is of family "deci" where the layers differ or the heads are not hidden_size wide together.
    """
    fields.require(config, "hidden_act", "silu", "silu")
    spec = decoder.spec(
        name,
        config,
        context=decoder.windowed_context(config),
        rope=fields.rope(config),
        tied=fields.flag(config, "tie_word_embeddings"),
        qkv_bias=True,
    )
    stock = spec.uniform and spec.heads[0] * spec.head_dim == spec.hidden
    return spec if stock else replace(spec, family=decoder.DECI)


def tensors(spec: ModelSpec) -> tuple[TensorSpec, ...]:
    """Every stored tensor, in file order."""
    return decoder.tensors(spec, interleaved=spec.family == decoder.DECI)


def gguf_metadata(spec: ModelSpec) -> dict[str, Any]:
    """The `qwen2.*` keys."""
    return decoder.gguf_metadata(spec)


def config_from_gguf(metadata: Mapping[str, Any], tensor_names: Set[str]) -> dict[str, Any]:
    """The Hugging Face config of a GGUF of this architecture."""
    return decoder.config_from_gguf(name, metadata, tensor_names) | class_settings()


def class_settings() -> dict[str, Any]:
    """What a config says of transformers' class."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "use_sliding_window": False,
    }
