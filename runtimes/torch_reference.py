"""The slow reference: a GGUF dequantised to float32 and run by transformers' own class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.errors import InputError, MissingExtra
from edgekit.models.forward import load_model
from edgekit.models.tokenizer import TokenizerFiles, load_tokenizer
from edgekit.runtimes.session import CacheTypes, SessionStats, check_tokens, choose_context, choose_threads
from edgekit.runtimes.tokens import Tokens

_AT_ONCE = 512  # positions per forward pass: bounds the attention matrix


def load(path: Path, *, context: int | None, threads: int | None, cache: CacheTypes | None = None) -> TorchSession:
    """Open a GGUF of any type; all its weights are held as float32.

    `threads` sets torch's number of threads, which is the process's. Raises InputError for a damaged file, an unknown
    family or a cache type, MissingExtra without torch and transformers.
    """
    if cache is not None:
        raise InputError("the torch runtime keeps keys and values in float32: leave --cache-type out")
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtra("torch", "quantize") from error
    torch.set_num_threads(choose_threads(threads))
    checkpoint = open_checkpoint(path, quantised=True)
    positions = choose_context(context, checkpoint.spec.context, path)
    return TorchSession(load_model(checkpoint), load_tokenizer(checkpoint), checkpoint.spec.vocab, positions)


class TorchSession(Tokens):
    """A `Session` of transformers' model: float32 weights, activations and attention cache."""

    def __init__(self, model: Any, tokenizer: TokenizerFiles, vocab: int, context: int) -> None:
        super().__init__(lambda: tokenizer)
        self._model, self.vocab, self.context = model, vocab, context
        self.reset()

    @property
    def position(self) -> int:
        return self._position

    def reset(self) -> None:
        from transformers import DynamicCache

        self._cache = DynamicCache(config=self._model.config)
        self._position = 0

    def prefill(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        return self._run(tokens, len(tokens) - 1).reshape(-1)

    def decode(self, token: int) -> NDArray[np.float32]:
        return self._run((token,), 0).reshape(-1)

    def score(self, tokens: Sequence[int], first: int) -> NDArray[np.float32]:
        self.reset()
        return self._run(tokens, first)

    def _run(self, tokens: Sequence[int], first: int) -> NDArray[np.float32]:
        """Append tokens part by part; the logits (len(tokens) - first, vocab) of those at `first` and later."""
        import torch

        check_tokens(tokens, self)
        assert 0 <= first < len(tokens)
        logits = np.empty((len(tokens) - first, self.vocab), np.float32)
        filled = 0
        for start in range(0, len(tokens), _AT_ONCE):
            part = torch.tensor([[int(token) for token in tokens[start : start + _AT_ONCE]]])
            count = part.shape[1]
            outputs = min(count, max(0, start + count - first))  # the last ones of this part
            with torch.no_grad():
                result = self._model(
                    input_ids=part, past_key_values=self._cache, use_cache=True, logits_to_keep=max(1, outputs)
                )
            if outputs:
                logits[filled : filled + outputs] = result.logits[0].numpy()
                filled += outputs
            self._position += count
        return logits

    def stats(self) -> SessionStats:
        layers = (layer for layer in self._cache.layers if layer.is_initialized)
        cache = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
        return SessionStats(sum(parameter.nbytes for parameter in self._model.parameters()), cache)

    def close(self) -> None:
        self._model = self._cache = None
