"""What a model is, apart from its weights: the values that every later stage reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["embedding", "head", "q", "k", "v", "o", "gate", "up", "down", "norm", "bias"]

MATRIX_ROLES: tuple[Role, ...] = ("embedding", "head", "q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor` (Chen et al., arXiv 2306.15595)."""

    factor: float


@dataclass(frozen=True)
class Llama3Scaling:
    """Frequency-dependent RoPE scaling of Llama 3.1: low frequencies divided by `factor`, high ones kept."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True)
class Rope:
    """Rotary embedding: base, optional base of the sliding-window layers, optional scaling of the full layers."""

    theta: float
    local_theta: float | None = None
    scaling: LinearScaling | Llama3Scaling | None = None


@dataclass(frozen=True)
class ModelSpec:
    """The architecture of a decoder-only language model. Per-layer tuples have `layers` entries."""

    family: str
    layers: int
    hidden: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    head_dim: int
    ffn: tuple[int, ...]
    vocab: int
    context: int
    norm_eps: float
    rope: Rope
    tied: bool
    activation: Literal["silu", "gelu_tanh"] = "silu"
    qk_norm: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    window: int | None = None  # positions that a sliding-window layer sees, the current one included
    sliding: tuple[bool, ...] = ()  # per layer: True where the layer is a sliding-window one; () means none
    attention_scale: float | None = None  # None means head_dim ** -0.5
    embedding_scale: float = 1.0  # gemma multiplies embeddings by sqrt(hidden)
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    experts: int = 0

    @property
    def uniform(self) -> bool:
        """Whether all layers have the same counts, as every model has that was not pruned."""
        return all(len(set(counts)) == 1 for counts in (self.heads, self.kv_heads, self.ffn))

    @property
    def runs_in_llama_cpp(self) -> bool:
        """Whether stock llama.cpp has the graph: of all its architectures here, only deci's has counts per layer."""
        return self.uniform or self.family == "deci"


@dataclass(frozen=True)
class TensorSpec:
    """One stored tensor: where it is in a Hugging Face checkpoint, where in a GGUF, and how the two differ.

    `shape` is torch's (rows, columns) = (out features, in features), or (n,) for a vector. A GGUF row is the same row.
    `rope_heads` > 0 says that the GGUF holds the rows of each of that many heads interleaved (ggml's "norm" RoPE order:
    Hugging Face row j and j + head_dim/2 become rows 2j and 2j + 1); `offset` is added to the values on the way to GGUF
    (1.0 for gemma's norms).
    """

    name: str
    gguf_name: str
    shape: tuple[int, ...]
    role: Role
    layer: int | None = None
    rope_heads: int = 0
    offset: float = 0.0
