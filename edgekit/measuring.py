"""Rounded matrices and the KL that they cost, measured on held-out windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.divergence import first_scored
from edgekit.models.forward import HeldOut, replaced
from edgekit.quant.formats import format_of
from edgekit.quant.formats.format import Blocks
from edgekit.quant.rounding import Refinement, round_tensor
from edgekit.quant.store import Store


class Rounded:
    """The checkpoint's matrices in any format; with a store, by its statistics, and each (matrix, format) once."""

    def __init__(self, checkpoint: Checkpoint, store: Store | None = None) -> None:
        self._checkpoint = checkpoint
        self._store = store

    def original(self, name: str) -> NDArray[np.float32]:
        """The matrix as the checkpoint has it."""
        return self._checkpoint.read(name)

    def blocks(self, name: str, format: str, *, refinement: Refinement | None = Refinement.DESCENT) -> Blocks:
        """The matrix's blocks (N, row bytes) uint8, rounded as `round_tensor` says; None: without statistics."""
        store, to = self._store, format_of(format)
        if store is None or to.unpack is None or refinement is None:
            return round_tensor(self.original(name), to)

        def make() -> Blocks:
            return round_tensor(self.original(name), to, store.statistics(name), refinement=refinement)

        return store.blocks(name, format, refinement.name, make)

    def stream(
        self, formats: Mapping[str, str], *, refinement: Refinement | None = Refinement.DESCENT
    ) -> Iterator[tuple[str, Blocks]]:
        """Every matrix of a plan, in the checkpoint's order."""
        for tensor in self._checkpoint.tensors:
            if tensor.name in formats:
                yield tensor.name, self.blocks(tensor.name, formats[tensor.name], refinement=refinement)


class Measure:
    """KL(model || model with some matrices rounded) in nats per token, on held-out windows (W, T) of token ids."""

    def __init__(self, model: Callable[[], Any], windows: NDArray[np.int64], rounded: Rounded, store: Store) -> None:
        """`model` is asked for when something has to be measured; `store` keeps what was."""
        self._model = model
        self._windows = windows
        self._rounded = rounded
        self._store = store

    def __call__(self, formats: Mapping[str, str], *, refinement: Refinement | None = Refinement.DESCENT) -> float:
        """`formats`: matrix -> format; the others stay as they are."""
        return float(self.tokens(formats, refinement=refinement).mean())

    def tokens(
        self, formats: Mapping[str, str], *, refinement: Refinement | None = Refinement.DESCENT
    ) -> NDArray[np.float64]:
        """The KL of each held-out token."""
        how = "NEAREST" if refinement is None else refinement.name
        return self._store.klds(formats, how, lambda: self._measured(formats, refinement))

    def _measured(self, formats: Mapping[str, str], refinement: Refinement | None) -> NDArray[np.float64]:
        held_out, rounded = self._held_out, self._rounded
        values = (
            (name, format_of(format).decode(rounded.blocks(name, format, refinement=refinement)))
            for name, format in formats.items()
        )
        with replaced(self._model(), values, rounded.original):
            return held_out.token_klds()

    @cached_property
    def _held_out(self) -> HeldOut:
        return HeldOut(self._model(), self._windows, first=first_scored(self._windows.shape[1]))
