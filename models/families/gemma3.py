"""Gemma 3 (text): four norms a layer, qk-norm, sliding layers with their own RoPE base. GGUF architecture "gemma3"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import Any

from edgekit.models.errors import InputError
from edgekit.models.families import decoder, fields
from edgekit.models.spec import ModelSpec, Rope, TensorSpec

name = "gemma3"
model_types: tuple[str, ...] = ("gemma3_text", "gemma3")

PERIOD = 6  # every sixth layer is full, where neither config nor GGUF says otherwise
LOCAL_THETA = 10000.0
NORMS = (
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
)
# What a published config.json leaves out, from transformers' Gemma3TextConfig.
DEFAULTS = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "query_pre_attn_scalar": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 4096,
}


def read_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The specification in a text model's config; InputError where llama.cpp's graph would compute something else."""
    config = DEFAULTS | {key: value for key, value in config.items() if value is not None}
    fields.require(config, "hidden_activation", "gelu_pytorch_tanh")
    fields.refuse(config, "attention_bias", "attn_logit_softcapping", "use_bidirectional_attention")
    layers = fields.integer(config, "num_hidden_layers", fields.MAX_LAYERS)
    hidden = fields.integer(config, "hidden_size", fields.MAX_HIDDEN)
    head_dim = fields.integer(config, "head_dim", fields.MAX_HEAD_DIM)
    sliding = _sliding(config, layers)
    softcap = config.get("final_logit_softcapping")
    spec = decoder.spec(
        name,
        config,
        context=fields.integer(config, "max_position_embeddings", fields.MAX_CONTEXT),
        rope=_rope(config),
        tied=fields.flag(config, "tie_word_embeddings", True),
        head_dim=head_dim,
        activation="gelu_tanh",
        qk_norm=True,
        window=fields.integer(config, "sliding_window", fields.MAX_CONTEXT) if sliding else None,
        sliding=sliding,
        attention_scale=fields.number(config, "query_pre_attn_scalar") ** -0.5,
        embedding_scale=math.sqrt(hidden),
        logit_softcap=None if softcap is None else fields.number(config, "final_logit_softcapping"),
    )
    _check_attention_scale(spec)
    return spec


def _check_attention_scale(spec: ModelSpec) -> None:
    """llama.cpp takes hidden / heads for 62 layers (the 27B model) and head_dim for the rest; no key changes that."""
    divisor = spec.hidden // spec.heads[0] if spec.layers == 62 else spec.head_dim
    assert spec.attention_scale is not None
    if not math.isclose(spec.attention_scale, divisor**-0.5, rel_tol=1e-6):
        raise InputError(
            f"config.json: query_pre_attn_scalar is {spec.attention_scale**-2:g}, "
            f"but a GGUF of architecture gemma3 with these sizes is computed with {divisor}"
        )


def _sliding(config: fields.Config, layers: int) -> tuple[bool, ...]:
    """Per layer whether it is a sliding one; () where none is."""
    sliding = fields.layer_types(config, layers)
    if sliding is None:
        key = (
            "sliding_window_pattern" if config.get("sliding_window_pattern") is not None else "_sliding_window_pattern"
        )
        sliding = _periodic(fields.integer(config, key, 1 << 20, PERIOD), layers)
    return sliding if any(sliding) else ()


def _periodic(period: int, layers: int) -> tuple[bool, ...]:
    return tuple(bool((layer + 1) % period) for layer in range(layers))


def _rope(config: fields.Config) -> Rope:
    """The two bases; `rope_parameters` is nested by layer type (transformers 5) or absent (flat keys, before)."""
    parameters = fields.mapping(config.get("rope_parameters"), "rope_parameters")
    if "full_attention" not in parameters and "sliding_attention" not in parameters:
        local = fields.number(config, "rope_local_base_freq", LOCAL_THETA)
        full = fields.rope(config, 1e6)
        return Rope(full.theta, local, full.scaling)
    nested = {
        kind: fields.mapping(parameters.get(kind), f"rope_parameters.{kind}")
        for kind in ("full_attention", "sliding_attention")
    }
    full = fields.rope({**config, "rope_parameters": nested["full_attention"]}, 1e6)
    local_rope = fields.rope({"rope_parameters": nested["sliding_attention"]}, LOCAL_THETA)
    if local_rope.scaling is not None:
        raise InputError(
            "config.json: the sliding layers' RoPE is scaled, which no GGUF of architecture gemma3 can express"
        )
    return Rope(full.theta, local_rope.theta, full.scaling)


def tensors(spec: ModelSpec) -> tuple[TensorSpec, ...]:
    """Every stored tensor; a norm multiplies by 1 + weight, and GGUF holds that sum."""
    return decoder.tensors(spec, norms=NORMS, norm_offset=1.0)


def gguf_metadata(spec: ModelSpec) -> dict[str, Any]:
    """The `gemma3.*` keys; the sliding pattern is written only where it is not every sixth layer full."""
    metadata = decoder.gguf_metadata(spec)
    if spec.sliding:
        metadata |= {"gemma3.attention.sliding_window": spec.window, "gemma3.rope.freq_base_swa": spec.rope.local_theta}
        if spec.sliding != _periodic(PERIOD, spec.layers):
            metadata["gemma3.attention.sliding_window_pattern"] = list(spec.sliding)
    if spec.logit_softcap is not None:
        metadata["gemma3.final_logit_softcapping"] = spec.logit_softcap
    return metadata


def config_from_gguf(metadata: Mapping[str, Any], tensor_names: Set[str]) -> dict[str, Any]:
    """The Hugging Face config of a GGUF of this architecture."""
    config = decoder.config_from_gguf(name, metadata, tensor_names)
    layers = fields.integer(config, "num_hidden_layers", fields.MAX_LAYERS)
    hidden = fields.integer(config, "hidden_size", fields.MAX_HIDDEN)
    heads = fields.integers(config, "num_attention_heads", layers, fields.MAX_HEADS)
    window = metadata.get("gemma3.attention.sliding_window")
    pattern = metadata.get("gemma3.attention.sliding_window_pattern", PERIOD)
    if isinstance(pattern, int):
        pattern = _periodic(max(pattern, 1), layers)
    if not isinstance(pattern, list | tuple) or len(pattern) != layers:
        raise InputError(f"gemma3.attention.sliding_window_pattern is not one flag for each of {layers} layers")
    if not window:
        pattern = (False,) * layers
    local = metadata.get("gemma3.rope.freq_base_swa", LOCAL_THETA)
    config.update(
        architectures=["Gemma3ForCausalLM"],
        model_type="gemma3_text",
        hidden_activation="gelu_pytorch_tanh",
        attention_bias=False,
        sliding_window=window or DEFAULTS["sliding_window"],
        layer_types=["sliding_attention" if slides else "full_attention" for slides in pattern],
        query_pre_attn_scalar=hidden // heads[0] if layers == 62 else config.get("head_dim"),
        final_logit_softcapping=metadata.get("gemma3.final_logit_softcapping"),
        attn_logit_softcapping=None,
        rope_parameters={
            "full_attention": config["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
    )
    return config
