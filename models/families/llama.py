"""Llama and what shares its graph: SmolLM, TinyLlama, Mistral (dense). GGUF architecture "llama"."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

from edgekit.models.families import decoder, fields
from edgekit.models.spec import ModelSpec, TensorSpec

name = "llama"
model_types: tuple[str, ...] = ("llama", "mistral")


def read_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The specification in a Hugging Face config; of family "deci" where the layers differ.

    A Mistral whose sliding window is shorter than its context gets the window as context: llama.cpp's graph has no
    window, and up to that length both compute the same.
    """
    fields.require(config, "hidden_act", "silu", "silu")
    mistral = config.get("model_type") == "mistral"
    context = fields.integer(config, "max_position_embeddings", fields.MAX_CONTEXT, 131072 if mistral else 2048)
    if mistral and config.get("sliding_window", 4096) is not None:
        context = min(context, fields.integer(config, "sliding_window", fields.MAX_CONTEXT, 4096))
    attention_bias = not mistral and fields.flag(config, "attention_bias")
    spec = decoder.spec(
        name,
        config,
        context=context,
        rope=fields.rope(config, llama3=True),
        tied=fields.flag(config, "tie_word_embeddings"),
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=not mistral and fields.flag(config, "mlp_bias"),
    )
    return spec if spec.uniform else replace(spec, family=decoder.DECI)


def tensors(spec: ModelSpec) -> tuple[TensorSpec, ...]:
    """Every stored tensor; llama.cpp rotates this architecture's neighbouring pairs, so Q and K rows are permuted."""
    return decoder.tensors(spec, interleaved=True)


def gguf_metadata(spec: ModelSpec) -> dict[str, Any]:
    """The `llama.*` keys. Llama 3's RoPE scaling has no key: it is the tensor of `rope.rope_factors`."""
    return decoder.gguf_metadata(spec)


def config_from_gguf(metadata: Mapping[str, Any], tensor_names: Set[str]) -> dict[str, Any]:
    """The Hugging Face config of a GGUF of this architecture; Llama 3's RoPE scaling is `rope.find_llama3`'s to add."""
    return decoder.config_from_gguf(name, metadata, tensor_names) | class_settings(tensor_names)


def class_settings(tensor_names: Set[str]) -> dict[str, Any]:
    """What a config says of transformers' class, from the GGUF names of the tensors."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_output.bias" in tensor_names,
        "mlp_bias": "blk.0.ffn_down.bias" in tensor_names,
    }
