"""Generate text token by token."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError
from edgekit.runtimes.sampling import Sampler, Sampling
from edgekit.runtimes.session import Session

Stop = Literal["end", "length", "context"]


@dataclass(frozen=True)
class Piece:
    """One generated token and the text that it completes ("" inside a UTF-8 character).

    The last piece has no token: it holds what is left of the text and why generation stopped: "end" (an end token),
    "length" (as many tokens as asked for), "context" (no position is left).
    """

    token: int | None
    text: str
    stop: Stop | None = None


def generate(
    session: Session, prompt: Sequence[int], *, max_tokens: int, sampling: Sampling | None = None
) -> Iterator[Piece]:
    """Reset the session, run the prompt and yield up to `max_tokens` pieces, then one that says why it stopped.

    Raises InputError, before the first piece, where the prompt is empty or leaves no room in the context.
    """
    if max_tokens < 1:
        raise InputError(f"{max_tokens} tokens cannot be generated: ask for 1 or more")
    sampler = Sampler(sampling or Sampling(), session.vocab)
    session.reset()
    logits = session.prefill(prompt)
    for token in prompt:
        sampler.accept(token)
    return _pieces(session, logits, sampler, max_tokens)


def _pieces(session: Session, logits: NDArray[np.float32], sampler: Sampler, max_tokens: int) -> Iterator[Piece]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    stop: Stop = "length"
    for count in range(1, max_tokens + 1):
        token = sampler.choose(logits)
        if token in session.end_tokens:
            stop = "end"
            break
        yield Piece(token, decoder.decode(session.decode_bytes(token)))
        if count == max_tokens:
            break
        if session.position >= session.context:
            stop = "context"
            break
        logits = session.decode(token)
    yield Piece(None, decoder.decode(b"", final=True), stop)
