"""What a runtime provides: a session, that is a loaded model with one sequence and its attention cache."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError

DEFAULT_CONTEXT = 4096
CACHE_TYPES = ("f16", "q8_0", "q4_0")


@dataclass(frozen=True)
class CacheTypes:
    """How the attention cache stores keys and values: "f16", "q8_0" or "q4_0" each."""

    keys: str
    values: str

    @classmethod
    def parse(cls, text: str) -> CacheTypes:
        """ "q8_0" for both, or "q8_0,q4_0" for keys and values; InputError for anything else."""
        names = text.split(",")
        if not set(names) <= set(CACHE_TYPES) or len(names) > 2:
            raise InputError(
                f"--cache-type {text}: write one of {', '.join(CACHE_TYPES)}, or two, for keys and values, as q8_0,q4_0"
            )
        return cls(names[0], names[-1])

    def __str__(self) -> str:
        return self.keys if self.keys == self.values else f"{self.keys},{self.values}"


@dataclass(frozen=True)
class SessionStats:
    """Sizes in bytes; None where the runtime does not tell."""

    model_bytes: int  # the tensors as the runtime holds them
    cache_bytes: int | None  # the attention cache as allocated now


class Session(Protocol):
    """A loaded model with one sequence and its attention cache; not for use by two threads at once."""

    @property
    def vocab(self) -> int:
        """The number of logits, which is the number of embedding rows."""

    @property
    def context(self) -> int:
        """How many positions fit."""

    @property
    def position(self) -> int:
        """How many positions are filled."""

    @property
    def bos(self) -> int | None:
        """The token that starts a sequence; None where the model has none or does not want it added."""

    @property
    def eos(self) -> int | None:
        """The token that ends a sequence, for chat templates."""

    @property
    def end_tokens(self) -> frozenset[int]:
        """EOS, EOT and their like: generation stops at any of them."""

    @property
    def chat_template(self) -> str | None:
        """The file's Jinja template."""

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids without BOS; `special` also recognises special tokens written out (chat templates)."""

    def decode_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for (part of a UTF-8 character, perhaps); nothing for a control token."""

    def token_text(self, token: int) -> str:
        """A token as the vocabulary spells it, control tokens too ("<bos>")."""

    def reset(self) -> None:
        """Empty the cache."""

    def prefill(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append tokens (at least one); the logits (vocab,) of the last one. InputError where they do not fit."""

    def decode(self, token: int) -> NDArray[np.float32]:
        """Append one token; its logits (vocab,). InputError where the context is full."""

    def score(self, tokens: Sequence[int], first: int) -> NDArray[np.float32]:
        """Reset, run the window; the logits (len(tokens) - first, vocab) of position `first` and those after it."""

    def stats(self) -> SessionStats: ...

    def close(self) -> None:
        """Free the model; a second call does nothing."""


class Runtime(Protocol):
    """What a runtime's module provides; `runtimes.RUNTIMES` lists the modules."""

    def load(self, path: Path, *, context: int | None, threads: int | None, cache: CacheTypes | None = None) -> Session:
        """Open a model; None means `choose_context`'s default, every core that may be used, the runtime's own types.

        InputError where the runtime does not have that `cache`.
        """


def choose_context(asked: int | None, trained: int, path: Path) -> int:
    """The context to allocate: what was asked for, else the trained one up to 4096; InputError where it is longer."""
    if asked is None:
        return min(trained, DEFAULT_CONTEXT)
    if not 1 <= asked <= trained:
        raise InputError(f"{path} has a context of {trained} tokens: {asked} is out of range, choose 1 to {trained}")
    return asked


def choose_threads(asked: int | None) -> int:
    """The number of threads: what was asked for, else the cores this process may run on."""
    if asked is None:
        return available_cores()
    if not 1 <= asked <= 1024:
        raise InputError(f"--threads {asked} is out of range: choose 1 to {available_cores()}")
    return asked


def available_cores() -> int:
    """The cores this process may run on (its affinity mask, where the system has one)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_tokens(tokens: Sequence[int], session: Session) -> None:
    """InputError unless the tokens are in the vocabulary, at least one, and fit in what is left of the context."""
    if len(tokens) == 0:
        raise InputError("there is no token to run: give a prompt that is not empty")
    if min(tokens) < 0 or max(tokens) >= session.vocab:
        raise InputError(
            f"a token id is outside the vocabulary of {session.vocab}: tokenise with the model's own tokenizer"
        )
    if session.position + len(tokens) > session.context:
        raise InputError(
            f"{len(tokens)} tokens after {session.position} do not fit in a context of {session.context}: "
            "shorten the prompt or raise --context"
        )
