"""Write the counts of a pruned model into its Hugging Face config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.models.families.decoder import scalar
from edgekit.models.spec import ModelSpec


def pruned_config(config: Mapping[str, Any], spec: ModelSpec) -> dict[str, Any]:
    """`config` with the counts of `spec`: scalars where all layers agree, which transformers loads, else lists.

    transformers' Llama refuses a hidden_size that is no multiple of the heads; its Mistral, without a window, is the
    same model and does not. Mistral has no biases, so that a Llama with some stays what it is.
    """
    counts = {
        "num_attention_heads": scalar(spec.heads),
        "num_key_value_heads": scalar(spec.kv_heads),
        "intermediate_size": scalar(spec.ffn),
        "head_dim": spec.head_dim,
    }
    result = {**config, **counts}
    biased = spec.qkv_bias or spec.o_bias or spec.mlp_bias
    if config["model_type"] == "llama" and spec.uniform and spec.hidden % spec.heads[0] and not biased:
        for key in ("attention_bias", "mlp_bias", "pretraining_tp"):
            result.pop(key, None)
        result |= {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "sliding_window": None,
            "max_position_embeddings": spec.context,  # their defaults differ
        }
    return result


def loads_in_transformers(config: Mapping[str, Any], spec: ModelSpec) -> bool:
    """Whether AutoModelForCausalLM.from_pretrained takes the folder of that config unchanged."""
    return spec.uniform and (config["model_type"] != "llama" or spec.hidden % spec.heads[0] == 0)
