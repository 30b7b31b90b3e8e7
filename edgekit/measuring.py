"""Rounded matrices and the KL that they cost, measured on held-out windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.divergence import first_scored
from edgekit.models.forward import HeldOut, replaced
from edgekit.quant.formats import format_of
from edgekit.quant.formats.format import Blocks
from edgekit.quant.rounding import round_tensor
from edgekit.quant.statistics import Importance


class Rounded:
    """The checkpoint's matrices in the formats asked for so far; each (matrix, format) is rounded once."""

    def __init__(self, checkpoint: Checkpoint, importance: Mapping[str, Importance]) -> None:
        self._checkpoint = checkpoint
        self._importance = importance
        self._blocks: dict[tuple[str, str], Blocks] = {}

    def original(self, name: str) -> NDArray[np.float32]:
        """The matrix as the checkpoint has it."""
        return self._checkpoint.read(name)

    def blocks(self, name: str, format: str) -> Blocks:
        """The matrix's blocks (N, row bytes) uint8, with the importance where calibration gave one."""
        known = self._blocks.get((name, format))
        if known is None:
            known = round_tensor(self._checkpoint.read(name), format_of(format), self._importance.get(name))
            self._blocks[name, format] = known
        return known

    def stream(self, formats: Mapping[str, str]) -> Iterator[tuple[str, Blocks]]:
        """Every matrix of a plan, in the checkpoint's order, forgotten as it is handed over."""
        for tensor in self._checkpoint.tensors:
            if tensor.name in formats:
                yield tensor.name, self.blocks(tensor.name, formats[tensor.name])
                self._blocks.pop((tensor.name, formats[tensor.name]), None)

    def keep(self, formats: Mapping[str, str]) -> None:
        """Forget all but the matrices of that plan."""
        self._blocks = {key: blocks for key, blocks in self._blocks.items() if formats.get(key[0]) == key[1]}


class Measure:
    """KL(model || model with some matrices rounded) in nats per token, on held-out windows (W, T) of token ids."""

    def __init__(self, model: Any, windows: NDArray[np.int64], rounded: Rounded) -> None:
        self._model = model
        self._rounded = rounded
        self._held_out = HeldOut(model, windows, first=first_scored(windows.shape[1]))

    def __call__(self, formats: Mapping[str, str]) -> float:
        """`formats`: matrix -> format; the others stay as they are."""
        rounded = self._rounded
        values = ((name, format_of(format).decode(rounded.blocks(name, format))) for name, format in formats.items())
        with replaced(self._model, values, rounded.original):
            return self._held_out.kld()
