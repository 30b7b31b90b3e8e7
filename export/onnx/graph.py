"""A graph while it is written down: nodes in order, constants, and the weights whose values come later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

CONTRIBUTED = "com.microsoft"  # the domain of ONNX Runtime's own operators

INT4 = helper.tensor_dtype_to_np_dtype(TensorProto.INT4)  # numpy has none of its own: a byte an element in memory

BFLOAT16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)

Shape = Sequence[int | str]  # a name is a dimension that is known at run time


@dataclass(frozen=True)
class Weight:
    """A stored tensor."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        bits = 4 if self.dtype == INT4 else 8 * self.dtype.itemsize
        return -(-prod(self.shape) * bits // 8)


@dataclass
class Graph:
    """Nodes, constants and weights; a value is known by its name, a node by that of its first output."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    inputs: list[ValueInfoProto] = field(default_factory=list)
    outputs: list[ValueInfoProto] = field(default_factory=list)
    values: list[ValueInfoProto] = field(default_factory=list)  # whose shapes inference cannot find

    def input(self, name: str, dtype: type, shape: Shape) -> str:
        self.inputs.append(_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: type, shape: Shape) -> None:
        self.outputs.append(_info(name, dtype, shape))

    def weight(self, name: str, dtype: Any, shape: tuple[int, ...]) -> str:
        """Declare a stored tensor; several nodes may use one."""
        weight = Weight(name, np.dtype(dtype), shape)
        assert self.weights.setdefault(name, weight) == weight, name
        return name

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """A tensor that follows from the model's sizes, not from its weights; a name that is there is that tensor."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(values, name)
        return name

    def integers(self, *values: int) -> str:
        """A constant int64 vector."""
        return self.constant(f"int64{list(values)}", np.array(values, np.int64))

    def number(self, value: float) -> str:
        """A constant float32 scalar."""
        return self.constant(f"float32({value:.9g})", np.array(value, np.float32))

    def add(self, name: str, operator: str, *inputs: str, **attributes: Any) -> str:
        """A standard operator; its only output, which has its name."""
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def add_all(self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> str:
        """A standard operator with several outputs; the first one."""
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes))
        return outputs[0]

    def add_contributed(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[tuple[str, Shape]], **attributes: Any
    ) -> str:
        """An operator of ONNX Runtime; its first output. An output that is left out is called "".

        Outputs are float32, with shapes stated here: the standard's inference does not know these operators.
        """
        names = [name for name, _ in outputs]
        node = helper.make_node(operator, inputs, names, name=names[0], domain=CONTRIBUTED, **attributes)
        self.nodes.append(node)
        self.values += [_info(name, np.float32, shape) for name, shape in outputs if name]
        return names[0]

    def proto(self, weights: Sequence[TensorProto]) -> GraphProto:
        """The whole graph with these initialisers for its weights."""
        outputs = {info.name for info in self.outputs}
        values = [info for info in self.values if info.name not in outputs]
        initialisers = [*self.constants.values(), *weights]
        return helper.make_graph(self.nodes, "decoder", self.inputs, self.outputs, initialisers, value_info=values)


def _info(name: str, dtype: type, shape: Shape) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
