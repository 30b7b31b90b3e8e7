"""What a runtime provides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SessionStats:
    """Sizes in bytes; None where the runtime does not tell."""

    model_bytes: int
    cache_bytes: int | None


class Session(Protocol):
    """A loaded model with one sequence and its attention cache.

    A runtime module provides `NAME: str` and `load(path, *, context: int, threads: int | None) -> Session`;
    `runtimes.RUNTIMES` lists the modules' names and `runtimes.load(path, runtime=...)` opens one.
    """

    vocab: int
    bos: int | None
    end_tokens: frozenset[int]  # EOS, EOT: generation stops at any of them
    chat_template: str | None

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids without BOS; `special` also recognises special tokens written out (chat templates)."""

    def decode_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for (part of a UTF-8 character, perhaps)."""

    def reset(self) -> None:
        """Empty the cache."""

    def prefill(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append tokens; the logits (vocab,) of the last one."""

    def decode(self, token: int) -> NDArray[np.float32]:
        """Append one token; its logits (vocab,)."""

    def score(self, tokens: Sequence[int], first: int) -> NDArray[np.float32]:
        """Reset, run the window, return the logits (len(tokens) - first, vocab) of positions `first`..; for evaluation."""

    def stats(self) -> SessionStats: ...

    def close(self) -> None: ...
