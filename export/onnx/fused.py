"""The decoder's parts in ONNX Runtime's own operators, domain `com.microsoft`: the fast ones on its processors.

A quantised matrix is MatMulNBits' with block_size 32: unsigned codes (N, K / 32, 4 * bits), whose zero point is the
operator's default, and scales (N, K / 32).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgekit.export.onnx.decoder import Projection
from edgekit.export.onnx.formats import BITS, BLOCK, FLOATS, codes_and_scales, floats, packed, scales_of
from edgekit.export.onnx.graph import Graph
from edgekit.export.onnx.rotary import rotary_tables
from edgekit.models.spec import ModelSpec, TensorSpec
from edgekit.quant.formats import Blocks

_FLOAT = TensorProto.FLOAT


@dataclass(frozen=True)
class Fused:
    """`decoder.Operators` over MatMulNBits, GatherBlockQuantized, GroupQueryAttention and the fused residual norm.

    `formats`: matrix -> format; `context`: the positions that the rotary tables cover; `accuracy_level`:
    MatMulNBits' for activations, 0 or 1 float32, 4 int8 in blocks.
    """

    graph: Graph
    spec: ModelSpec
    formats: Mapping[str, str]
    context: int
    accuracy_level: int
    _parts: dict[str, tuple[str, ...]] = field(default_factory=dict)  # a joined matrix -> those whose rows it has
    _waiting: dict[str, Blocks] = field(default_factory=dict)  # of those, what came before the others

    def embed(self, name: str, ids: str, table: TensorSpec) -> str:
        format, columns = self._format(table.name), table.shape[1]
        if format in FLOATS:
            weight = self.graph.weight(table.name, FLOATS[format], table.shape)
            if format == "f32":
                return self.graph.add(name, "Gather", weight, ids)
            return self.graph.add(name, "Cast", self.graph.add(f"{name}.rows", "Gather", weight, ids), to=_FLOAT)
        codes, scales = self._quantised(table)
        # The head's own tensor of blocks is gathered from as it is: another shape would be another copy in memory.
        per_block = self.graph.add(f"{name}.scales", "Unsqueeze", scales, self.graph.integers(-1))
        found = self.graph.add_contributed(
            "GatherBlockQuantized",
            [codes, ids, per_block],
            [(f"{name}.blocks", ("batch", "sequence", columns // BLOCK, BLOCK))],
            bits=BITS[format],
            block_size=BLOCK,
            gather_axis=0,
            quantize_axis=2,
        )
        return self.graph.add(name, "Reshape", found, self.graph.integers(0, 0, columns))

    def linear(self, name: str, x: str, matrix: TensorSpec, bias: TensorSpec | None) -> str:
        return self._product(name, x, matrix, None if bias is None else self._bias(bias))

    def linears(self, name: str, x: str, parts: Mapping[str, Projection]) -> tuple[str, ...]:
        """Matrices of one format become one with all their rows: each operator costs a small model much for itself."""
        matrices, biases = zip(*parts.values(), strict=True)
        if len({self._format(matrix.name) for matrix in matrices}) > 1:
            return tuple(self.linear(part, x, *projection) for part, projection in parts.items())
        rows = sum(matrix.shape[0] for matrix in matrices)
        joined = replace(matrices[0], name=f"{name}.weight", shape=(rows, matrices[0].shape[1]))
        self._parts[joined.name] = tuple(matrix.name for matrix in matrices)
        offset = None
        if None not in biases:  # a runtime joins them once, when it loads
            offset = self.graph.add(f"{name}.bias", "Concat", *map(self._bias, biases), axis=0)
        return (self._product(name, x, joined, offset),)

    def _bias(self, bias: TensorSpec) -> str:
        return self.graph.weight(bias.name, np.float32, bias.shape)

    def _product(self, name: str, x: str, matrix: TensorSpec, offset: str | None) -> str:
        format, (rows, columns) = self._format(matrix.name), matrix.shape
        shape = ("batch", "sequence", rows)
        if format in FLOATS:
            weight = self.graph.weight(matrix.name, FLOATS[format], matrix.shape)
            if format != "f32":
                # Multiplied in float32, as the reference does: a runtime folds this once, when it loads.
                weight = self.graph.add(f"{name}.float32", "Cast", weight, to=_FLOAT)
            product = name if offset is None else f"{name}.product"
            self.graph.add_contributed("FusedMatMul", [x, weight], [(product, shape)], transB=1)
            return product if offset is None else self.graph.add(name, "Add", product, offset)
        inputs = [x, *self._quantised(matrix)]
        return self.graph.add_contributed(
            "MatMulNBits",
            inputs if offset is None else [*inputs, "", "", offset],
            [(name, shape)],
            N=rows,
            K=columns,
            bits=BITS[format],
            block_size=BLOCK,
            accuracy_level=self.accuracy_level,
        )

    def add_norm(self, name: str, x: str, residual: str, gain: TensorSpec) -> tuple[str, str]:
        shape = ("batch", "sequence", self.spec.hidden)
        weight = self.graph.weight(gain.name, np.float32, gain.shape)
        self.graph.add_contributed(
            "SkipSimplifiedLayerNormalization",
            [x, residual, weight],
            [(name, shape), ("", ()), ("", ()), (f"{name}.sum", shape)],
            epsilon=self.spec.norm_eps,
        )
        return f"{name}.sum", name

    def attention(self, name: str, projected: Sequence[str], layer: int) -> str:
        spec = self.spec
        heads, kv_heads, size = spec.heads[layer], spec.kv_heads[layer], spec.head_dim
        sliding = bool(spec.sliding) and spec.sliding[layer]
        assert not sliding or spec.window is not None
        cache = ("batch", kv_heads, "total", size)
        return self.graph.add_contributed(
            "GroupQueryAttention",
            [
                *(projected if len(projected) == 3 else (*projected, "", "")),
                *(f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"),
                *self._lengths,
                *rotary_tables(self.graph, spec, self.context, sliding=sliding),
            ],
            [
                (name, ("batch", "sequence", heads * size)),
                (f"present.{layer}.key", cache),
                (f"present.{layer}.value", cache),
            ],
            num_heads=heads,
            kv_num_heads=kv_heads,
            scale=size**-0.5 if spec.attention_scale is None else spec.attention_scale,
            softcap=spec.attention_softcap or 0.0,
            local_window_size=spec.window if sliding else -1,
            do_rotary=1,
        )

    @cached_property
    def _lengths(self) -> tuple[str, str]:
        """What the mask says: each sequence's last position (B,), and the longest length, a scalar; int32."""
        graph = self.graph
        counted = graph.add("mask.sum", "ReduceSum", "attention_mask", graph.integers(1), keepdims=0)
        last = graph.add("mask.last", "Sub", counted, graph.integers(1))
        length = graph.add("mask.length", "Shape", "attention_mask", start=1)
        total = graph.add("mask.total", "Squeeze", length)
        return (
            graph.add("last_position", "Cast", last, to=TensorProto.INT32),
            graph.add("total_length", "Cast", total, to=TensorProto.INT32),
        )

    def stored(self, name: str, blocks: Blocks) -> Iterator[tuple[str, NDArray[Any]]]:
        joined = next((joined for joined, parts in self._parts.items() if name in parts), None)
        if joined is not None:
            self._waiting[name] = blocks
            parts = self._parts[joined]
            if not all(part in self._waiting for part in parts):
                return
            name, blocks = joined, np.concatenate([self._waiting.pop(part) for part in parts])
        format = self._format(name)
        if format in FLOATS:
            yield name, floats(format, blocks)
            return
        codes, scales = codes_and_scales(format, blocks)
        yield name, packed(codes, BITS[format]).reshape(*scales.shape, -1)
        yield scales_of(name), scales

    def _format(self, name: str) -> str:
        return self.formats[self._parts.get(name, (name,))[0]]

    def _quantised(self, matrix: TensorSpec) -> tuple[str, str]:
        """The codes and the scales, declared."""
        rows, columns = matrix.shape
        blocks = columns // BLOCK
        codes = (rows, blocks, BLOCK * BITS[self._format(matrix.name)] // 8)
        return (
            self.graph.weight(matrix.name, np.uint8, codes),
            self.graph.weight(scales_of(matrix.name), np.float32, (rows, blocks)),
        )
