"""genai_config.json, by which ONNX Runtime GenAI runs a folder."""

from __future__ import annotations

import json
from typing import Any

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.tokenizer import TokenizerFiles

FILE = "genai_config.json"
# What a checkpoint's generation_config.json may say about sampling; the rest is the runtime's own default.
_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty")


def expressible(checkpoint: Checkpoint) -> bool:
    """Whether that runtime can be told of the model: it has one number of heads for all layers."""
    return len(set(checkpoint.spec.heads)) == len(set(checkpoint.spec.kv_heads)) == 1


def genai_config(
    checkpoint: Checkpoint, tokenizer: TokenizerFiles, positions: int, filename: str, *, in_place: bool
) -> dict[str, Any]:
    """The description of a graph of `decoder`, good for so many positions, in the file of that name.

    `in_place`: the cache may be one buffer for input and output.
    """
    spec = checkpoint.spec
    assert expressible(checkpoint)
    ends = sorted(tokenizer.end_ids, key=lambda token: (token != tokenizer.eos, token))  # EOS first
    # Batches are padded with it, behind a mask: any token will do.
    pad = tokenizer.pad if tokenizer.pad is not None else ends[0] if ends else 0
    return {
        "model": {
            "type": checkpoint.config["model_type"],
            "bos_token_id": tokenizer.bos if tokenizer.bos is not None else pad,
            "eos_token_id": ends,
            "pad_token_id": pad,
            "context_length": positions,
            "vocab_size": spec.vocab,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": filename,
                "num_hidden_layers": spec.layers,
                "num_attention_heads": spec.heads[0],
                "num_key_value_heads": spec.kv_heads[0],
                "head_size": spec.head_dim,
                "hidden_size": spec.hidden,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"max_length": positions, "past_present_share_buffer": in_place, **_sampling(checkpoint)},
    }


def _sampling(checkpoint: Checkpoint) -> dict[str, Any]:
    path = checkpoint.path / "generation_config.json"
    stated = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {key: stated[key] for key in _SAMPLING if stated.get(key) is not None}
