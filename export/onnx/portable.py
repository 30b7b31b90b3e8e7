"""The decoder's parts in standard operators alone, opset 23: for runtimes without ONNX Runtime's own.

A quantised matrix is int4 or int8 (K, N), dequantised in blocks of 32 rows before a MatMul: the one layout that ONNX
Runtime multiplies without dequantising the matrix first, and only where nothing else reads codes or scales. A tied
embedding therefore looks rows up in a transpose of the head's, which a runtime makes once, when it loads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgekit.export.onnx.decoder import Projection, norm
from edgekit.export.onnx.formats import BITS, BLOCK, FLOATS, codes_and_scales, floats, packed, scales_of
from edgekit.export.onnx.graph import INT4, Graph
from edgekit.export.onnx.rotary import rotary_tables
from edgekit.models.spec import ModelSpec, TensorSpec
from edgekit.quant.formats import Blocks

_FLOAT = TensorProto.FLOAT


@dataclass(frozen=True)
class Portable:
    """`decoder.Operators` over Attention, RMSNormalization, RotaryEmbedding and DequantizeLinear in blocks.

    `formats`: matrix -> format; `context`: the positions that the rotary tables cover.
    """

    graph: Graph
    spec: ModelSpec
    formats: Mapping[str, str]
    context: int

    def embed(self, name: str, ids: str, table: TensorSpec) -> str:
        graph, format, columns = self.graph, self.formats[table.name], table.shape[1]
        if format in FLOATS:
            found = graph.add(f"{name}.rows", "Gather", graph.weight(table.name, FLOATS[format], table.shape), ids)
            return graph.add(name, "Cast", found, to=_FLOAT)
        if format == "q4_0":
            codes = self._unpacked(name, ids, table)
        else:
            codes = graph.add(f"{name}.table", "Transpose", self._codes(table), perm=[1, 0])
            codes = graph.add(f"{name}.rows", "Gather", codes, ids)
            codes = graph.add(f"{name}.codes", "Cast", codes, to=_FLOAT)
        blocks = graph.add(f"{name}.blocks", "Reshape", codes, graph.integers(0, 0, columns // BLOCK, BLOCK))
        scales = graph.add(f"{name}.table.scales", "Transpose", self._scales(table), perm=[1, 0])
        scales = graph.add(f"{name}.rows.scales", "Gather", scales, ids)
        scales = graph.add(f"{name}.scales", "Unsqueeze", scales, graph.integers(-1))
        values = graph.add(f"{name}.values", "Mul", blocks, scales)
        return graph.add(name, "Reshape", values, graph.integers(0, 0, columns))

    def linear(self, name: str, x: str, matrix: TensorSpec, bias: TensorSpec | None) -> str:
        graph, format = self.graph, self.formats[matrix.name]
        if format in FLOATS:
            weight = graph.weight(matrix.name, FLOATS[format], matrix.shape)
            weight = graph.add(f"{matrix.name}.float32", "Cast", weight, to=_FLOAT)
            weight = graph.add(f"{matrix.name}.transposed", "Transpose", weight, perm=[1, 0])
        else:
            weight = graph.add(
                f"{matrix.name}.values",
                "DequantizeLinear",
                *(self._codes(matrix), self._scales(matrix)),
                axis=0,
                block_size=BLOCK,
            )
        if bias is None:
            return graph.add(name, "MatMul", x, weight)
        offset = graph.weight(bias.name, np.float32, bias.shape)
        return graph.add(name, "Add", graph.add(f"{name}.product", "MatMul", x, weight), offset)

    def linears(self, name: str, x: str, parts: Mapping[str, Projection]) -> tuple[str, ...]:
        return tuple(self.linear(part, x, *projection) for part, projection in parts.items())

    def add_norm(self, name: str, x: str, residual: str, gain: TensorSpec) -> tuple[str, str]:
        total = self.graph.add(f"{name}.sum", "Add", x, residual)
        return total, norm(self.graph, name, total, gain, self.spec.norm_eps)

    def attention(self, name: str, projected: Sequence[str], layer: int) -> str:
        spec, graph = self.spec, self.graph
        query, key, value = projected
        heads, kv_heads = spec.heads[layer], spec.kv_heads[layer]
        sliding = bool(spec.sliding) and spec.sliding[layer]
        tables = rotary_tables(graph, spec, self.context, sliding=sliding)
        positions = self._positions
        rotated = [
            graph.add(f"{name}.{part}.rotated", "RotaryEmbedding", x, *tables, positions, num_heads=count)
            for part, x, count in (("q", query, heads), ("k", key, kv_heads))
        ]
        return graph.add_all(
            "Attention",
            [
                *(*rotated, value, self._sliding_mask if sliding else self._causal_mask),
                *(f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"),
            ],
            [name, f"present.{layer}.key", f"present.{layer}.value"],
            q_num_heads=heads,
            kv_num_heads=kv_heads,
            scale=spec.head_dim**-0.5 if spec.attention_scale is None else spec.attention_scale,
            softcap=spec.attention_softcap or 0.0,
        )

    def stored(self, name: str, blocks: Blocks) -> Iterator[tuple[str, NDArray[Any]]]:
        format, declared = self.formats[name], self.graph.weights
        if format in FLOATS:
            yield name, floats(format, blocks)
            return
        codes, scales = codes_and_scales(format, blocks)
        yield scales_of(name), np.ascontiguousarray(scales.T)
        if name in declared:
            yield name, np.ascontiguousarray(codes.T).astype(declared[name].dtype)
        if _rows(name) in declared:
            yield _rows(name), packed(codes, 4)

    @cached_property
    def _positions(self) -> str:
        """The new tokens' positions (B, S): how many tokens the mask has before each."""
        graph = self.graph
        counted = graph.add("mask.counted", "CumSum", "attention_mask", graph.constant("int64(1)", np.array(1)))
        before = graph.add("mask.before", "Sub", counted, graph.integers(1))
        # Padding on the left counts -1; its rows are masked, and any place in the tables will do.
        before = graph.add("mask.positions", "Max", before, graph.integers(0))
        past = graph.add("past", "Shape", "past_key_values.0.key", start=2, end=3)
        total = graph.add("total", "Shape", "attention_mask", start=1)
        return graph.add("positions", "Slice", before, past, total, graph.integers(1))

    @cached_property
    def _causal_mask(self) -> str:
        """Which keys each new token sees, (B, 1, S, P + S) bool: those up to itself that the mask has."""
        graph = self.graph
        rows, columns = self._places
        causal = graph.add("mask.up_to", "LessOrEqual", columns, rows)
        there = graph.add("mask.there", "Cast", "attention_mask", to=TensorProto.BOOL)
        there = graph.add("mask.keys", "Unsqueeze", there, graph.integers(1, 2))
        return graph.add("mask.causal", "And", there, causal)

    @cached_property
    def _sliding_mask(self) -> str:
        """Of those, the ones in the window."""
        graph, window = self.graph, self.spec.window
        assert window is not None
        rows, columns = self._places
        first = graph.add("mask.first", "Sub", rows, graph.integers(window))
        return graph.add("mask.sliding", "And", self._causal_mask, graph.add("mask.from", "Greater", columns, first))

    @cached_property
    def _places(self) -> tuple[str, str]:
        """The places of the new tokens in the cache (S, 1), and of all keys (P + S,)."""
        graph = self.graph
        _ = self._positions  # makes "past" and "total"
        zero, one = graph.constant("int64(0)", np.array(0)), graph.constant("int64(1)", np.array(1))
        start, end = graph.add("past.scalar", "Squeeze", "past"), graph.add("total.scalar", "Squeeze", "total")
        rows = graph.add("places.new", "Range", start, end, one)
        rows = graph.add("places.rows", "Unsqueeze", rows, graph.integers(-1))
        return rows, graph.add("places.columns", "Range", zero, end, one)

    def _codes(self, matrix: TensorSpec) -> str:
        """The codes (K, N), declared."""
        dtype = INT4 if BITS[self.formats[matrix.name]] == 4 else np.int8
        return self.graph.weight(matrix.name, dtype, matrix.shape[::-1])

    def _scales(self, matrix: TensorSpec) -> str:
        rows, columns = matrix.shape
        return self.graph.weight(scales_of(matrix.name), np.float32, (columns // BLOCK, rows))

    def _unpacked(self, name: str, ids: str, table: TensorSpec) -> str:
        """The 4-bit codes (B, S, H) of rows, as floats.

        No standard operator looks up rows of an int4 tensor: the table is uint8 with two codes in a byte, and stored
        beside the head's where they are tied.
        """
        graph, (rows, columns) = self.graph, table.shape
        pairs = graph.add(
            f"{name}.rows", "Gather", graph.weight(_rows(table.name), np.uint8, (rows, columns // 2)), ids
        )
        low = graph.add(f"{name}.low", "BitwiseAnd", pairs, graph.constant("uint8(15)", np.array(15, np.uint8)))
        high = graph.add(
            f"{name}.high", "BitShift", pairs, graph.constant("uint8(4)", np.array(4, np.uint8)), direction="RIGHT"
        )
        halves = [graph.add(f"{half}.last", "Unsqueeze", half, graph.integers(-1)) for half in (low, high)]
        both = graph.add(f"{name}.both", "Concat", *halves, axis=-1)
        unsigned = graph.add(f"{name}.unsigned", "Cast", both, to=_FLOAT)
        return graph.add(f"{name}.pairs", "Sub", unsigned, graph.number(8.0))


def _rows(name: str) -> str:
    """The name of the table that rows of 4-bit codes are looked up in."""
    return f"{name}.rows"
