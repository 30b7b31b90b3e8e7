"""Qwen3 (dense): RMS norms on each head's query and key, explicit head_dim, no biases. GGUF architecture "qwen3"."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from edgekit.models.families import decoder, fields
from edgekit.models.spec import ModelSpec, TensorSpec

name = "qwen3"
model_types: tuple[str, ...] = ("qwen3",)


def read_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The specification in a Hugging Face config; sliding layers cap the context at their window (see `decoder`)."""
    fields.require(config, "hidden_act", "silu", "silu")
    fields.refuse(config, "attention_bias")
    return decoder.spec(
        name,
        config,
        head_dim=128,
        context=decoder.windowed_context(config),
        rope=fields.rope(config),
        tied=fields.flag(config, "tie_word_embeddings"),
        qk_norm=True,
    )


def tensors(spec: ModelSpec) -> tuple[TensorSpec, ...]:
    """Every stored tensor, in file order."""
    return decoder.tensors(spec)


def gguf_metadata(spec: ModelSpec) -> dict[str, Any]:
    """The `qwen3.*` keys."""
    return decoder.gguf_metadata(spec)


def config_from_gguf(metadata: Mapping[str, Any], tensor_names: Set[str]) -> dict[str, Any]:
    """The Hugging Face config of a GGUF of this architecture."""
    config = decoder.config_from_gguf(name, metadata, tensor_names)
    config.update(architectures=["Qwen3ForCausalLM"], hidden_act="silu", attention_bias=False, use_sliding_window=False)
    return config
