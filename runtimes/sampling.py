"""Choose the next token: repetition penalty, top-k, top-p, min-p, temperature, in this order (llama.cpp's)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError

_STRIPE = 64  # scores of which one maximum is taken
REPETITION_WINDOW = 64  # how many of the last tokens the repetition penalty looks at


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token. InputError where a value is out of range.

    temperature: 0 takes the likeliest token. top_k: 0 keeps all. top_p (nucleus, arXiv 1904.09751): 1 keeps all.
    min_p (arXiv 2407.01082): 0 keeps all. repetition_penalty (arXiv 1909.05858, section 4.1): 1 is none.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, ok, allowed in (
            ("temperature", self.temperature, 0 <= self.temperature < math.inf, "0 or more"),
            ("top-k", self.top_k, self.top_k >= 0, "0 (all) or more"),
            ("top-p", self.top_p, 0 < self.top_p <= 1, "more than 0, at most 1"),
            ("min-p", self.min_p, 0 <= self.min_p <= 1, "0 to 1"),
            ("repetition penalty", self.repetition_penalty, 0 < self.repetition_penalty < math.inf, "more than 0"),
            ("seed", self.seed, self.seed >= 0, "0 or more"),
        ):
            if not ok:
                raise InputError(f"{name} {value} is out of range: give {allowed}")


class Sampler:
    """Draws tokens with one seeded generator: the same seed and logits give the same tokens."""

    def __init__(self, options: Sampling) -> None:
        self._options = options
        self._random = np.random.default_rng(options.seed)

    def choose(self, logits: NDArray[np.float32], recent: Sequence[int] = ()) -> int:
        """A token drawn from logits (vocab,), given the tokens before it (the latest last)."""
        tokens, probabilities = distribution(logits, self._options, recent)
        if len(tokens) == 1:
            return int(tokens[0])
        edges = np.cumsum(probabilities)
        # `edges` ends a rounding error away from 1: the last token takes what is left.
        index = int(np.searchsorted(edges, self._random.random() * edges[-1], side="right"))
        return int(tokens[min(index, len(tokens) - 1)])


def distribution(
    logits: NDArray[np.float32], options: Sampling, recent: Sequence[int] = ()
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The tokens that remain (likeliest first, ties by id) and their probabilities, float64, summing to 1.

    The filters see the distribution at temperature 1; the temperature is applied to what they leave.
    Raises InputError where the logits are not numbers.
    """
    scores = penalise(logits, recent[-REPETITION_WINDOW:], options.repetition_penalty)
    if not math.isfinite(scores.max()):
        raise InputError("the model's output is not a number: the file or its checkpoint is damaged")
    if options.temperature == 0:
        return np.array([scores.argmax()]), np.ones(1)
    tokens = largest(scores, options.top_k or len(scores))
    scores = scores[tokens]
    probabilities = softmax(scores)
    kept = count_top_p(probabilities, options.top_p)
    kept = min(kept, count_min_p(probabilities, options.min_p))
    return tokens[:kept], softmax(scores[:kept] / options.temperature)


def penalise(logits: NDArray[np.float32], recent: Sequence[int], penalty: float) -> NDArray[np.float64]:
    """Logits (float64) with those of recent tokens made less likely: divided where positive, else multiplied."""
    scores = logits.astype(np.float64)
    if penalty != 1 and len(recent):
        seen = np.unique(np.asarray(recent))
        scores[seen] = np.where(scores[seen] > 0, scores[seen] / penalty, scores[seen] * penalty)
    return scores


def largest(scores: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """The indices of the `count` largest scores, descending; the lower index first (and kept) among equals."""
    if count >= len(scores):
        return np.argsort(-scores, kind="stable")
    candidates = np.flatnonzero(scores >= _bound(scores, count))
    values = scores[candidates]
    return candidates[np.argsort(-values, kind="stable")[:count]]


def _bound(scores: NDArray[np.float64], count: int) -> float:
    """A score that at least `count` are not below, and not many more."""
    stripes = len(scores) // _STRIPE
    if stripes >= count:  # each stripe holds one that is its maximum
        maxima = scores[: stripes * _STRIPE].reshape(_STRIPE, stripes).max(axis=0)
        return float(np.partition(maxima, -count)[-count])
    return float(np.partition(scores, -count)[-count])


def count_top_p(probabilities: NDArray[np.float64], p: float) -> int:
    """How many of the (descending) probabilities make up the smallest prefix whose sum is at least p."""
    if p >= 1:
        return len(probabilities)
    return min(int(np.searchsorted(np.cumsum(probabilities), p)) + 1, len(probabilities))


def count_min_p(probabilities: NDArray[np.float64], p: float) -> int:
    """How many of the (descending) probabilities are at least p times the first."""
    return int(np.count_nonzero(probabilities >= p * probabilities[0]))


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of scores, float64."""
    weights = np.exp(scores - scores.max())
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised
