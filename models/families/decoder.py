"""What the families share: the layout of a pre-norm decoder with grouped-query attention and a gated feed-forward.

A family module states what it has of the options; nothing here knows a family by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

from edgekit.models.errors import InputError
from edgekit.models.families import fields
from edgekit.models.spec import LinearScaling, ModelSpec, Role, Rope, TensorSpec

# (Hugging Face module, GGUF module, role) of a layer's matrices, in the order of a file.
ATTENTION: tuple[tuple[str, str, Role], ...] = (
    ("self_attn.q_proj", "attn_q", "q"),
    ("self_attn.k_proj", "attn_k", "k"),
    ("self_attn.v_proj", "attn_v", "v"),
    ("self_attn.o_proj", "attn_output", "o"),
)
FEED_FORWARD: tuple[tuple[str, str, Role], ...] = (
    ("mlp.gate_proj", "ffn_gate", "gate"),
    ("mlp.up_proj", "ffn_up", "up"),
    ("mlp.down_proj", "ffn_down", "down"),
)
DECI = "deci"  # the architecture for layers that differ: see its module
PRE_NORMS = (("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"))


def spec(
    family: str,
    config: fields.Config,
    *,
    context: int,
    rope: Rope,
    tied: bool,
    head_dim: int | None = None,
    **options: Any,
) -> ModelSpec:
    """The specification of a config, sizes checked; `head_dim` is the family's default (None: hidden / heads)."""
    layers = fields.integer(config, "num_hidden_layers", fields.MAX_LAYERS)
    hidden = fields.integer(config, "hidden_size", fields.MAX_HIDDEN)
    heads = fields.integers(config, "num_attention_heads", layers, fields.MAX_HEADS)
    kv_heads = heads
    if config.get("num_key_value_heads") is not None:
        kv_heads = fields.integers(config, "num_key_value_heads", layers, fields.MAX_HEADS)
    if head_dim is None:
        head_dim = max(hidden // heads[0], 1)
        if config.get("head_dim") is None and hidden % heads[0]:
            raise InputError(f"config.json: hidden_size {hidden} is not a multiple of num_attention_heads {heads[0]}")
    head_dim = fields.integer(config, "head_dim", fields.MAX_HEAD_DIM, head_dim)
    if head_dim % 2:
        raise InputError(f"config.json: head_dim {head_dim} is odd: rotary embeddings rotate pairs")
    for query, key in zip(heads, kv_heads, strict=True):
        if query % key:
            raise InputError(f"config.json: num_attention_heads {query} is not a multiple of num_key_value_heads {key}")
    return ModelSpec(
        family=family,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=fields.integers(config, "intermediate_size", layers, fields.MAX_FFN),
        vocab=fields.integer(config, "vocab_size", fields.MAX_VOCAB),
        context=context,
        norm_eps=fields.number(config, "rms_norm_eps", 1e-6),
        rope=rope,
        tied=tied,
        **options,
    )


def windowed_context(config: fields.Config, default: int = 32768) -> int:
    """The context of a Qwen: no longer than the sliding window, where some layer has one.

    llama.cpp's graphs of these architectures have no window, and up to its length both compute the same.
    """
    context = fields.integer(config, "max_position_embeddings", fields.MAX_CONTEXT, default)
    if not fields.flag(config, "use_sliding_window") or config.get("sliding_window", 4096) is None:
        return context
    layers = fields.integer(config, "num_hidden_layers", fields.MAX_LAYERS)
    sliding = fields.layer_types(config, layers)
    if sliding is None:
        full = config.get("max_window_layers", 28)
        sliding = tuple(not isinstance(full, int) or layer >= full for layer in range(layers))
    return min(context, fields.integer(config, "sliding_window", fields.MAX_CONTEXT, 4096)) if any(sliding) else context


def tensors(
    spec: ModelSpec,
    *,
    norms: tuple[tuple[str, str], ...] = PRE_NORMS,
    norm_offset: float = 0.0,
    interleaved: bool = False,
) -> tuple[TensorSpec, ...]:
    """Every stored tensor, in file order.

    `norms` are a layer's (Hugging Face, GGUF) norms, `norm_offset` what every norm's values gain on the way to GGUF;
    `interleaved` permutes Q and K rows for ggml's "norm" RoPE order.
    """
    result = [TensorSpec("model.embed_tokens.weight", "token_embd.weight", (spec.vocab, spec.hidden), "embedding")]
    for layer in range(spec.layers):
        result += _layer(spec, layer, norms, norm_offset, interleaved)
    result.append(TensorSpec("model.norm.weight", "output_norm.weight", (spec.hidden,), "norm", offset=norm_offset))
    if not spec.tied:
        result.append(TensorSpec("lm_head.weight", "output.weight", (spec.vocab, spec.hidden), "head"))
    return tuple(result)


def _layer(
    spec: ModelSpec, layer: int, norms: tuple[tuple[str, str], ...], norm_offset: float, interleaved: bool
) -> Iterator[TensorSpec]:
    query, key, ffn = spec.heads[layer] * spec.head_dim, spec.kv_heads[layer] * spec.head_dim, spec.ffn[layer]
    shapes: dict[Role, tuple[int, int]] = {
        "q": (query, spec.hidden),
        "k": (key, spec.hidden),
        "v": (key, spec.hidden),
        "o": (spec.hidden, query),
        "gate": (ffn, spec.hidden),
        "up": (ffn, spec.hidden),
        "down": (spec.hidden, ffn),
    }
    biases: dict[Role, bool] = dict.fromkeys(("q", "k", "v"), spec.qkv_bias)
    biases |= {"o": spec.o_bias, "gate": spec.mlp_bias, "up": spec.mlp_bias, "down": spec.mlp_bias}
    rope_heads: dict[Role, int] = {"q": spec.heads[layer], "k": spec.kv_heads[layer]} if interleaved else {}
    model, blk = f"model.layers.{layer}", f"blk.{layer}"

    def norm(module: str, gguf: str, size: int) -> TensorSpec:
        return TensorSpec(f"{model}.{module}.weight", f"{blk}.{gguf}.weight", (size,), "norm", layer, 0, norm_offset)

    def linear(module: str, gguf: str, role: Role) -> Iterator[TensorSpec]:
        permuted = rope_heads.get(role, 0)
        yield TensorSpec(f"{model}.{module}.weight", f"{blk}.{gguf}.weight", shapes[role], role, layer, permuted)
        if biases[role]:
            yield TensorSpec(f"{model}.{module}.bias", f"{blk}.{gguf}.bias", shapes[role][:1], "bias", layer, permuted)

    before_ffn = len(norms) // 2
    for module, gguf in norms[:before_ffn]:
        yield norm(module, gguf, spec.hidden)
    for module, gguf, role in ATTENTION:
        yield from linear(module, gguf, role)
    if spec.qk_norm:
        yield norm("self_attn.q_norm", "attn_q_norm", spec.head_dim)
        yield norm("self_attn.k_norm", "attn_k_norm", spec.head_dim)
    for module, gguf in norms[before_ffn:]:
        yield norm(module, gguf, spec.hidden)
    for module, gguf, role in FEED_FORWARD:
        yield from linear(module, gguf, role)


def gguf_metadata(spec: ModelSpec) -> dict[str, Any]:
    """The keys that every architecture has; counts are scalars where all layers agree, else one per layer."""
    keys: dict[str, Any] = {
        "vocab_size": spec.vocab,
        "context_length": spec.context,
        "embedding_length": spec.hidden,
        "block_count": spec.layers,
        "feed_forward_length": scalar(spec.ffn),
        "attention.head_count": scalar(spec.heads),
        "attention.head_count_kv": scalar(spec.kv_heads),
        "attention.layer_norm_rms_epsilon": spec.norm_eps,
        "attention.key_length": spec.head_dim,
        "attention.value_length": spec.head_dim,
        "rope.dimension_count": spec.head_dim,
        "rope.freq_base": spec.rope.theta,
    }
    if isinstance(spec.rope.scaling, LinearScaling):
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": spec.rope.scaling.factor}
    return {f"{spec.family}.{key}": value for key, value in keys.items()}


def scalar(counts: tuple[int, ...]) -> int | list[int]:
    """One number where all layers have the same, else one for each."""
    return counts[0] if len(set(counts)) == 1 else list(counts)


def config_from_gguf(architecture: str, metadata: Mapping[str, Any], tensor_names: Set[str]) -> dict[str, Any]:
    """The Hugging Face config's common fields; those that are missing stay out, for `read_spec` to name or default."""

    def get(key: str) -> Any:
        return metadata.get(f"{architecture}.{key}")

    rope_parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": get("rope.freq_base") or 10000.0}
    scaling = get("rope.scaling.type")
    factor = get("rope.scaling.factor") or get("rope.scale_linear")
    if scaling not in (None, "none", "linear"):
        rope_parameters["rope_type"] = scaling
    elif scaling != "none" and factor not in (None, 1.0):
        rope_parameters |= {"rope_type": "linear", "factor": factor}
    heads, hidden = get("attention.head_count"), get("embedding_length")
    split = hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 else None
    head_dim = get("attention.key_length") or split
    for key in ("attention.value_length", "rope.dimension_count"):
        size = get(key) or (split if key == "attention.value_length" else head_dim)
        if size != head_dim:
            raise InputError(
                f"{architecture}.{key} is {size!r} where a head's key has {head_dim!r}: that is not supported"
            )
    config = {
        "model_type": architecture,
        "max_position_embeddings": get("context_length"),
        "hidden_size": hidden,
        "num_hidden_layers": get("block_count"),
        "intermediate_size": get("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv"),
        "head_dim": head_dim,
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "rope_parameters": rope_parameters,
        "tie_word_embeddings": "output.weight" not in tensor_names,
    }
    return {key: value for key, value in config.items() if value is not None}
