"""Tiny random-weight checkpoints of each family, made by transformers' own classes, with the sample's tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

SAMPLE = Path(__file__).parent / "assets" / "sample"
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3")
VOCAB = 4096  # the sample's tokenizer

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "factor": 2.0}

# Every variant whose logits in llama.cpp must equal transformers': (family, options of `random_checkpoint`).
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("llama", {}),
    ("llama", {"tied": True}),
    ("llama", {"scaling": LLAMA3}),
    ("llama", {"scaling": LINEAR}),
    ("llama", {"bias": True}),
    ("llama", {"head_dim": 32, "shard_bytes": 300_000}),
    ("mistral", {}),
    ("mistral", {"window": 48}),
    ("qwen2", {}),
    ("qwen2", {"tied": True, "scaling": LINEAR}),
    ("qwen3", {}),
    ("qwen3", {"tied": True, "head_dim": 32}),
    ("gemma3", {}),
    ("gemma3", {"tied": False, "scaling": LINEAR}),
    ("gemma3", {"layer_types": ("full", "sliding", "sliding"), "softcap": 5.0, "head_dim": 32}),
)


def variant_id(variant: tuple[str, dict[str, Any]]) -> str:
    """A name for pytest's parameters."""
    family, options = variant
    words = [str(value["rope_type"]) if isinstance(value, dict) else f"{key}={value}" for key, value in options.items()]
    return "-".join([family, *words])


def random_model(
    family: str,
    *,
    seed: int = 0,
    hidden: int = 64,
    ffn: int = 96,
    layers: int = 3,
    context: int = 256,
    kv_heads: int = 2,
    tied: bool | None = None,
    scaling: dict[str, Any] | None = None,
    bias: bool = False,
    head_dim: int | None = None,
    window: int | None = None,
    layer_types: tuple[str, ...] | None = None,
    softcap: float | None = None,
    dtype: str = "float32",
) -> Any:
    """A transformers model with 4 heads and weights that make every part of it matter.

    Matrices have a standard deviation of about 1.5 / sqrt(columns), so that logits vary by one or two nats; norms and
    biases are random too.
    """
    import torch
    import transformers

    common: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": context,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
        "tie_word_embeddings": family == "gemma3" if tied is None else tied,
    }
    rope = {"rope_theta": 10000.0, "rope_type": "default", **(scaling or {})}
    if head_dim is not None or family == "qwen3":
        common["head_dim"] = head_dim or hidden // 4
    if family == "llama":
        config: Any = transformers.LlamaConfig(**common, rope_parameters=rope, attention_bias=bias, mlp_bias=bias)
        model: Any = transformers.LlamaForCausalLM(config)
    elif family == "mistral":
        model = transformers.MistralForCausalLM(
            transformers.MistralConfig(**common, rope_parameters=rope, sliding_window=window)
        )
    elif family == "qwen2":
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**common, rope_parameters=rope))
    elif family == "qwen3":
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**common, rope_parameters=rope))
    elif family == "gemma3":
        common.setdefault("head_dim", hidden // 4)
        kinds = layer_types or ("sliding", "full", "sliding") * layers
        config = transformers.Gemma3TextConfig(
            **common,
            rope_parameters={
                "full_attention": {**rope, "rope_theta": 100_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5_000.0},
            },
            query_pre_attn_scalar=common["head_dim"],
            sliding_window=window or 24,
            layer_types=[f"{kind}_attention" for kind in kinds[:layers]],
            final_logit_softcapping=softcap,
        )
        model = transformers.Gemma3ForCausalLM(config)
    else:
        raise ValueError(family)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                parameter.copy_(noise * 1.5 / parameter.shape[1] ** 0.5)
            elif name.endswith("bias") or family == "gemma3":
                parameter.copy_(noise * 0.2)
            else:
                parameter.copy_(1.0 + noise * 0.2)
    return model.to(getattr(torch, dtype)).eval()


def random_checkpoint(folder: Path, family: str, *, shard_bytes: int | None = None, **options: Any) -> Path:
    """`random_model(family, **options)` saved with the sample's tokenizer; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    model = random_model(family, **options)
    model.save_pretrained(folder, max_shard_size="5GB" if shard_bytes is None else shard_bytes)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SAMPLE / name, folder / name)
    return folder
