"""Run a GGUF in edgekit's own C runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit import _native
from edgekit.models.errors import InputError
from edgekit.models.tokenizer_gguf import read_gguf
from edgekit.runtimes.session import CacheTypes, SessionStats, check_tokens, choose_context, choose_threads
from edgekit.runtimes.tokens import Tokens


def load(
    path: Path,
    *,
    context: int | None,
    threads: int | None,
    cache: CacheTypes | None = None,
    float_activations: bool = False,
) -> NativeSession:
    """Open a GGUF of a supported family and type; `threads` None means every big core that may be used.

    `cache` None means float16. `float_activations` multiplies without rounding activations to int8 and keeps float32
    keys and values: slow, for comparisons. Raises InputError with the C library's sentence where it refuses the file.
    """
    cache = cache or CacheTypes("f16", "f16")
    try:
        model = _native.Model(path, threads=0 if threads is None else choose_threads(threads))
        positions = choose_context(context, model.context, path)
        handle = _native.Context(
            model, positions, key_type=cache.keys, value_type=cache.values, float_activations=float_activations
        )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error
    return NativeSession(path, model, handle, positions)


class NativeSession(Tokens):
    """A `Session` of libedgekit: packed weights, int8 activations, one sequence."""

    def __init__(self, path: Path, model: _native.Model, handle: _native.Context, context: int) -> None:
        super().__init__(lambda: read_gguf(path).padded(model.vocab, path))
        self._model, self._handle = model, handle
        self.vocab, self.context = model.vocab, context

    @property
    def position(self) -> int:
        return self._handle.length(0)

    @property
    def isa(self) -> str:
        """The level of the kernels that run, as "avx512vnni"."""
        return self._model.isa

    def heads(self, layer: int) -> tuple[int, int]:
        """Query and KV heads of a layer."""
        return self._model.heads(layer)

    def reset(self) -> None:
        self._handle.truncate(0, 0)

    def prefill(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        return self._run(tokens, 1).reshape(-1)

    def decode(self, token: int) -> NDArray[np.float32]:
        return self._run((token,), 1).reshape(-1)

    def score(self, tokens: Sequence[int], first: int) -> NDArray[np.float32]:
        self.reset()
        assert 0 <= first < len(tokens)
        return self._run(tokens, len(tokens) - first)

    def _run(self, tokens: Sequence[int], outputs: int) -> NDArray[np.float32]:
        """Append tokens; the logits (outputs, vocab) of the last ones."""
        check_tokens(tokens, self)
        logits = np.empty((outputs, self.vocab), np.float32)
        ids = np.fromiter(tokens, np.int32, len(tokens))
        if len(ids) == 1:
            self._handle.decode(_FIRST, ids, logits)
        else:
            self._handle.prefill(0, ids, logits)
        return logits

    def cancel(self) -> None:
        """From another thread: what is under way raises `_native.Cancelled`, a prefill after its micro-batch."""
        self._handle.cancel()

    def stats(self) -> SessionStats:
        allocated, _, _ = self._handle.cache_bytes()
        return SessionStats(self._model.weight_bytes + self._model.mapped_bytes, allocated)

    def close(self) -> None:
        self._handle.close()
        self._model.close()


_FIRST = np.zeros(1, np.uint32)
