"""The decoder as a graph, from a `ModelSpec`: the same for both sets of operators, and it knows no family by name.

Inputs and outputs have the names that ONNX Runtime GenAI gives them. B sequences of S new tokens after P cached ones:
input_ids (B, S) int64, attention_mask (B, P + S) int64, past_key_values.N.key and .value (B, K, P, D) float32 of each
layer N with K KV heads; logits (B, R, V) float32, present.N.key and .value (B, K, P + S, D). One input more may be left
out: logits_to_keep (1,) int64, R, how many of the last positions get logits (default: all).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.export.onnx.graph import Graph
from edgekit.models.spec import ModelSpec, TensorSpec
from edgekit.quant.formats import Blocks

END = np.iinfo(np.int64).max  # "to the end", for Slice

Projection = tuple[TensorSpec, TensorSpec | None]  # a matrix and its bias


class Operators(Protocol):
    """How one set of operators computes the parts of a decoder; values are named, x is (B, S, columns) float32."""

    @property
    def graph(self) -> Graph: ...

    def embed(self, name: str, ids: str, table: TensorSpec) -> str:
        """The rows `ids` (B, S) of the table (V, H): (B, S, H)."""

    def linear(self, name: str, x: str, matrix: TensorSpec, bias: TensorSpec | None) -> str:
        """x Wᵀ + b: (B, S, rows)."""

    def linears(self, name: str, x: str, parts: Mapping[str, Projection]) -> tuple[str, ...]:
        """`linear` of each part by its name; or, where `attention` takes it, one value with all side by side."""

    def add_norm(self, name: str, x: str, residual: str, gain: TensorSpec) -> tuple[str, str]:
        """x + residual, and its RMS norm."""

    def attention(self, name: str, projected: Sequence[str], layer: int) -> str:
        """Rotation, the cache and causal attention: (B, S, heads * D).

        `projected`: queries (B, S, heads * D), keys and values (B, S, KV heads * D), or what `linears` made of them.
        Reads the layer's past_key_values and writes its present.
        """

    def stored(self, name: str, blocks: Blocks) -> Iterator[tuple[str, NDArray[Any]]]:
        """The weights that were declared for the matrix of that name, with their values."""


def write_decoder(spec: ModelSpec, tensors: Sequence[TensorSpec], operators: Operators) -> None:
    """Write the whole graph into `operators.graph`, its inputs and outputs declared."""
    _Decoder(spec, {tensor.gguf_name: tensor for tensor in tensors}, operators).write()


def norm(graph: Graph, name: str, x: str, gain: TensorSpec, epsilon: float) -> str:
    """The RMS norm over the last dimension (Zhang and Sennrich, arXiv 1910.07467)."""
    weight = graph.weight(gain.name, np.float32, gain.shape)
    return graph.add(name, "RMSNormalization", x, weight, axis=-1, epsilon=epsilon)


class _Decoder:
    """Tensors go by their GGUF names, which say what a norm is for: Hugging Face's depend on the family."""

    def __init__(self, spec: ModelSpec, tensors: dict[str, TensorSpec], operators: Operators) -> None:
        self.spec, self.tensors, self.operators, self.graph = spec, tensors, operators, operators.graph

    def write(self) -> None:
        spec, graph = self.spec, self.graph
        ids = graph.input("input_ids", np.int64, ("batch", "sequence"))
        graph.input("attention_mask", np.int64, ("batch", "total"))
        for layer in range(spec.layers):
            for part in ("key", "value"):
                heads, size = spec.kv_heads[layer], spec.head_dim
                graph.input(f"past_key_values.{layer}.{part}", np.float32, ("batch", heads, "past", size))
                graph.output(f"present.{layer}.{part}", np.float32, ("batch", heads, "total", size))
        x = self.operators.embed("embed", ids, self.tensors["token_embd.weight"])
        if spec.embedding_scale != 1.0:
            x = graph.add("embed.scaled", "Mul", x, graph.number(spec.embedding_scale))
        normed = self.norm("layers.0.attn_norm", x, "blk.0.attn_norm")
        for layer in range(spec.layers):
            x, normed = self.layer(layer, x, normed)
        self.head(normed)

    def layer(self, layer: int, x: str, normed: str) -> tuple[str, str]:
        """The residual stream after a layer, and it normed for what comes next."""
        name, block = f"layers.{layer}", f"blk.{layer}"
        y = self.attention(layer, normed)
        if f"{block}.post_attention_norm.weight" in self.tensors:
            y = self.norm(f"{name}.post_attention_norm", y, f"{block}.post_attention_norm")
        x, normed = self.operators.add_norm(f"{name}.ffn_norm", x, y, self.tensors[f"{block}.ffn_norm.weight"])
        y = self.feed_forward(layer, normed)
        if f"{block}.post_ffw_norm.weight" in self.tensors:
            y = self.norm(f"{name}.post_ffw_norm", y, f"{block}.post_ffw_norm")
        after, gain = f"layers.{layer + 1}.attn_norm", f"blk.{layer + 1}.attn_norm"
        if layer + 1 == self.spec.layers:
            after, gain = "norm", "output_norm"
        return self.operators.add_norm(after, x, y, self.tensors[f"{gain}.weight"])

    def attention(self, layer: int, x: str) -> str:
        name, spec = f"layers.{layer}.attn", self.spec
        parts = {f"{name}.{part}": self.projection(f"blk.{layer}.attn_{part}") for part in "qkv"}
        if spec.qk_norm:
            query, key, value = (self.operators.linear(part, x, *projection) for part, projection in parts.items())
            query = self.heads_norm(f"{name}.q_norm", query, f"blk.{layer}.attn_q_norm", spec.heads[layer])
            key = self.heads_norm(f"{name}.k_norm", key, f"blk.{layer}.attn_k_norm", spec.kv_heads[layer])
            projected: tuple[str, ...] = (query, key, value)
        else:
            projected = self.operators.linears(f"{name}.qkv", x, parts)
        y = self.operators.attention(name, projected, layer)
        return self.linear(f"{name}.o", y, f"blk.{layer}.attn_output")

    def feed_forward(self, layer: int, x: str) -> str:
        name, graph = f"layers.{layer}.ffn", self.graph
        gate, up = (self.linear(f"{name}.{part}", x, f"blk.{layer}.ffn_{part}") for part in ("gate", "up"))
        if self.spec.activation == "silu":
            gate = graph.add(f"{name}.silu", "Mul", gate, graph.add(f"{name}.sigmoid", "Sigmoid", gate))
        else:
            gate = graph.add(f"{name}.gelu", "Gelu", gate, approximate="tanh")
        return self.linear(f"{name}.down", graph.add(f"{name}.gated", "Mul", gate, up), f"blk.{layer}.ffn_down")

    def head(self, x: str) -> None:
        graph, spec = self.graph, self.spec
        # An initialiser that is an input as well is one that may be left out.
        keep = graph.constant(graph.input("logits_to_keep", np.int64, (1,)), np.array([END]))
        start = graph.add("logits_from", "Neg", keep)
        x = graph.add("norm.kept", "Slice", x, start, graph.integers(END), graph.integers(1))
        table = self.tensors["token_embd.weight" if spec.tied else "output.weight"]
        cap = spec.logit_softcap
        x = self.operators.linear("logits" if cap is None else "head", x, table, None)
        if cap is not None:
            x = graph.add("head.scaled", "Div", x, graph.number(cap))
            graph.add("logits", "Mul", graph.add("head.tanh", "Tanh", x), graph.number(cap))
        graph.output("logits", np.float32, ("batch", "kept", spec.vocab))

    def linear(self, name: str, x: str, gguf_name: str) -> str:
        return self.operators.linear(name, x, *self.projection(gguf_name))

    def projection(self, gguf_name: str) -> Projection:
        return self.tensors[f"{gguf_name}.weight"], self.tensors.get(f"{gguf_name}.bias")

    def norm(self, name: str, x: str, gguf_name: str) -> str:
        return norm(self.graph, name, x, self.tensors[f"{gguf_name}.weight"], self.spec.norm_eps)

    def heads_norm(self, name: str, x: str, gguf_name: str, heads: int) -> str:
        """The norm of each head of (B, S, heads * D) on its own."""
        graph, size = self.graph, self.spec.head_dim
        x = graph.add(f"{name}.heads", "Reshape", x, graph.integers(0, 0, heads, size))
        x = self.norm(name, x, gguf_name)
        return graph.add(f"{name}.flat", "Reshape", x, graph.integers(0, 0, heads * size))
