"""Choose the next token as libedgekit does, whatever runtime the logits are of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit import _native
from edgekit.models.errors import InputError

_LEAST, _MOST = (float(value) for value in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))  # as C takes them


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token. InputError where a value is out of range.

    The options apply in this order: repetition_penalty (arXiv 1909.05858, section 4.1; 1 is none) to the last 64
    tokens, top_k (0 keeps all), top_p (nucleus, arXiv 1904.09751; 1 keeps all), min_p (arXiv 2407.01082; 0 keeps all),
    which all see the distribution at temperature 1, then temperature to what they leave (0 takes the likeliest token).
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, ok, allowed in (
            ("temperature", self.temperature, 0 <= self.temperature <= _MOST, "0 or more, a float32"),
            ("top-k", self.top_k, 0 <= self.top_k < 2**32, "0 (all) or more"),
            ("top-p", self.top_p, _LEAST <= self.top_p <= 1, "more than 0, at most 1"),
            ("min-p", self.min_p, 0 <= self.min_p <= 1, "0 to 1"),
            ("repetition penalty", self.repetition_penalty, _LEAST <= self.repetition_penalty <= _MOST, "more than 0"),
            ("seed", self.seed, 0 <= self.seed < 2**64, "0 to 2^64 - 1"),
        ):
            if not ok:
                raise InputError(f"{name} {value} is out of range: give {allowed}")


class Sampler:
    """Draws tokens with one seeded generator: the same options, logits and calls give the same tokens everywhere."""

    def __init__(self, options: Sampling, vocab: int) -> None:
        self._chooser = _native.Sampler(
            vocab,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            repetition_penalty=options.repetition_penalty,
            seed=options.seed,
        )

    def choose(self, logits: NDArray[np.float32]) -> int:
        """A token drawn from logits (vocab,), remembered for the penalty. InputError where they are not numbers."""
        try:
            return self._chooser.choose(logits)
        except ValueError as error:
            raise InputError(str(error)) from error

    def accept(self, token: int) -> None:
        """Remember a token that was not chosen here, as those of the prompt."""
        self._chooser.accept(token)
