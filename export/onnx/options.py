"""What is chosen about a graph apart from its formats."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.models.errors import InputError
from edgekit.models.spec import ModelSpec

DEFAULT_CONTEXT = 4096  # the rotary tables of a longer one take more room than a small model's weights


@dataclass(frozen=True)
class OnnxOptions:
    """How a graph is written.

    `accuracy_level` is MatMulNBits' for activations: 0 or 1 float32, 2 float16, 3 bfloat16, 4 int8 in blocks of 32,
    where the runtime has such a kernel. `context`: positions that the graph is good for, None for the trained ones up
    to 4096. `external_data`: weights in a file of their own, as they are anyway where they are too many for one.
    `portable`: standard operators alone; their runtime then decides on its activations, not `accuracy_level`.
    """

    accuracy_level: int = 4
    context: int | None = None
    external_data: bool = False
    portable: bool = False

    def positions(self, spec: ModelSpec) -> int:
        """The context of that model's graph; InputError where it was not trained for it."""
        if self.context is None:
            return min(spec.context, DEFAULT_CONTEXT)
        if not 1 <= self.context <= spec.context:
            raise InputError(
                f"--context {self.context} is out of range: the model was trained for 1 to {spec.context} tokens"
            )
        return self.context
