"""Which rows of a large matrix stand for all of them where a KL is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.quant.statistics import KroneckerTerm

SAMPLE_WEIGHTS = 4_000_000  # a larger matrix is evaluated on a sample of about so many weights' rows
CHUNK_WEIGHTS = 1 << 21
BACKGROUND = 0.1  # of a row's mean square, added where the row's size is guessed: zeros are rounded too


@dataclass(frozen=True)
class RowSample:
    """Rows drawn without replacement, with the probability by which each came in (1 for those always taken)."""

    rows: NDArray[np.int64]  # ascending
    probability: NDArray[np.float64]

    def total(self, errors: NDArray[np.float64]) -> tuple[float, float]:
        """The estimated sum over all rows of a quantity known on the sample, and its standard error.

        Horvitz and Thompson's estimator, which is unbiased, with Hajek's approximation of its variance (Tille, Sampling
        and Estimation from Finite Populations, 2020).
        """
        expanded = errors / self.probability
        spread = 1.0 - self.probability
        drawn = int(np.count_nonzero(spread))
        if drawn < 2:
            return float(expanded.sum()), 0.0
        centre = float(spread @ expanded / spread.sum())
        variance = drawn / (drawn - 1) * float(spread @ (expanded - centre) ** 2)
        return float(expanded.sum()), float(np.sqrt(variance))


def draw_rows(
    values: NDArray[np.float32], terms: Sequence[KroneckerTerm], *, seed: int = 0, weights: int | None = None
) -> RowSample:
    """All rows of a matrix of up to `weights` (SAMPLE_WEIGHTS); of a larger one so many, in proportion to their size.

    A row's size is a guess at its share of the KL: its squared weights under the diagonals of the terms. Token
    frequencies make these heavy-tailed, so the largest are always in. The others are drawn systematically from a list
    in order of size, which spreads the sample over sizes as strata would (Madow, 1949). Rows that no term weighs
    contribute nothing and are not drawn.
    """
    count, columns = values.shape
    wanted = (weights or SAMPLE_WEIGHTS) // columns
    if count <= wanted:
        return RowSample(np.arange(count), np.ones(count))
    probability = inclusion_probabilities(_row_sizes(values, terms), wanted)
    order = np.argsort(-probability, kind="stable")
    positions = np.cumsum(probability[order]) + np.random.default_rng(seed).random()
    taken = np.floor(positions) > np.floor(np.concatenate(([positions[0] - probability[order[0]]], positions[:-1])))
    rows = np.sort(order[taken])
    return RowSample(rows, probability[rows])


def inclusion_probabilities(sizes: NDArray[np.float64], wanted: int) -> NDArray[np.float64]:
    """(N,) summing to `wanted`: 1 for sizes so large that they are always in, for the others proportional to size."""
    probability = np.zeros(len(sizes))
    certain = np.zeros(len(sizes), dtype=bool)
    if np.count_nonzero(sizes) <= wanted:
        return np.asarray(sizes > 0, dtype=np.float64)
    while True:
        left = sizes[~certain]
        probability[~certain] = left * ((wanted - np.count_nonzero(certain)) / left.sum())
        above = ~certain & (probability >= 1.0)
        if not above.any():
            return probability
        certain |= above
        probability[above] = 1.0


def _row_sizes(values: NDArray[np.float32], terms: Sequence[KroneckerTerm]) -> NDArray[np.float64]:
    """(N,) float64: sum over terms of rows[n] * (w_n^2 + a background) @ diag C."""
    diagonals = np.stack([np.diagonal(term.columns) for term in terms])  # (T, K)
    rows = np.stack([term.rows for term in terms]).astype(np.float64)  # (T, N)
    sizes = np.empty(len(values))
    step = max(1, CHUNK_WEIGHTS // values.shape[1])
    for start in range(0, len(values), step):
        stop = min(start + step, len(values))
        squares = np.square(values[start:stop])
        background = BACKGROUND * squares.mean(axis=1)
        shares = squares @ diagonals.T + background[:, None] * diagonals.sum(axis=1)  # (N, T)
        sizes[start:stop] = np.einsum("tn,nt->n", rows[:, start:stop], shares)
    return np.maximum(sizes, 0.0)
