"""Sparsity against textbook versions: SparseGPT by an inverse for every column, thresholds by sorting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.quant.formats import FORMATS, Format
from edgekit.quant.sparsity import (
    BLOCK,
    DAMPING,
    compensated,
    histogram,
    keeps_zeros,
    prune_matrix,
    saliencies,
    shares,
)
from edgekit.quant.statistics import KroneckerTerm


def random_matrix(rows: int, columns: int, seed: int, kind: str = "plain") -> tuple[NDArray[np.float32], KroneckerTerm]:
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((rows, columns)).astype(np.float32)
    weights = generator.exponential(1.0, rows).astype(np.float32)
    inputs = generator.standard_normal((3 * columns, columns)) @ generator.standard_normal((columns, columns))
    inputs *= 10 ** generator.normal(0, 0.5, columns)
    if kind == "unused":  # outputs, inputs and a whole column of weights that are never used
        weights[::3], inputs[:, ::4], values[:, 1] = 0, 0, 0
    elif kind == "deficient":
        inputs = inputs[: 1 + columns // 4]
    elif kind == "no statistics":
        weights[:], inputs[:] = 0, 0
    return values, KroneckerTerm(weights, (inputs.T @ inputs / len(inputs)).astype(np.float32))


def damped(term: KroneckerTerm) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Row weights (N,) and H (K, K)."""
    rows, h = term.rows.astype(np.float64), term.columns.astype(np.float64)
    mean = np.diagonal(h).mean()
    rows += DAMPING * rows.mean() if rows.any() else 1.0
    return rows, h + (DAMPING * mean if mean > 0 else 1.0) * np.eye(len(h))


def dense_saliencies(w: NDArray[np.float64], rows: NDArray[np.float64], h: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of columns in the order that they are taken in: w^2 over the first element of what is left of H, inverted."""
    least = [1 / np.linalg.inv(h[k:, k:])[0, 0] for k in range(len(h))]
    return rows[:, None] / 2 * w**2 * np.array(least)


def dense_sparsegpt(values: NDArray[np.float32], term: KroneckerTerm, count: int) -> NDArray[np.float64]:
    """The paper's equations (3) and (5) with an explicit inverse for every column."""
    rows, h = damped(term)
    order = np.argsort(np.diagonal(term.columns), kind="stable")
    w, h = values[:, order].astype(np.float64), h[np.ix_(order, order)]
    first = np.argsort(dense_saliencies(w, rows, h), axis=None)[:count]
    quota = np.bincount(first % len(h), minlength=len(h))
    for start in range(0, len(h), BLOCK):
        stop = min(start + BLOCK, len(h))
        scores = dense_saliencies(w, rows, h)[:, start:stop]
        mask = np.zeros(scores.size, bool)
        mask[np.argsort(scores, axis=None)[: quota[start:stop].sum()]] = True
        mask = mask.reshape(scores.shape)
        for k in range(start, stop):
            inverse = np.linalg.inv(h[k:, k:])
            for n in np.flatnonzero(mask[:, k - start]):
                w[n, k:] -= w[n, k] / inverse[0, 0] * inverse[0]
                w[n, k] = 0.0
    result = np.empty_like(w)
    result[:, order] = w
    return result


@pytest.mark.parametrize("kind", ["plain", "unused", "deficient", "no statistics"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (7, 5), (12, 32), (9, 80), (20, 71)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_sparsegpt_equals_the_dense_textbook(rows: int, columns: int, share: float, kind: str) -> None:
    values, term = random_matrix(rows, columns, rows * columns, kind)
    count = max(1, round(share * values.size))
    expected = dense_sparsegpt(values, term, count)
    found = compensated(values, term, count)
    assert np.count_nonzero(found == 0) >= count
    if kind != "unused":  # there zeros of the matrix itself tie, whichever of them is counted
        np.testing.assert_array_equal(found == 0, expected == 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max() + 1e-12)


def test_compensation_is_optimal_where_the_last_columns_are_free() -> None:
    """Columns of zero saliency go first; what remains is then the least-squares solution on the columns after them."""
    values, term = random_matrix(6, 2 * BLOCK, 3)
    gone = np.argsort(np.diagonal(term.columns), kind="stable")[:BLOCK]  # the first block that is taken
    values[:, gone] *= 1e-3
    count = values[:, gone].size
    found = compensated(values, term, count)
    assert np.all(found[:, gone] == 0) and np.count_nonzero(found == 0) == count
    _, h = damped(term)
    left = np.setdiff1d(np.arange(2 * BLOCK), gone)
    best = values[:, left] + values[:, gone] @ h[np.ix_(gone, left)] @ np.linalg.inv(h[np.ix_(left, left)])
    np.testing.assert_allclose(found[:, left], best, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "unused", "deficient", "no statistics"])
def test_saliencies_equal_the_dense_ones(kind: str) -> None:
    values, term = random_matrix(11, 40, 5, kind)
    rows, h = damped(term)
    order = np.argsort(np.diagonal(term.columns), kind="stable")
    expected = np.empty(values.shape)
    expected[:, order] = dense_saliencies(values[:, order].astype(np.float64), rows, h[np.ix_(order, order)])
    np.testing.assert_allclose(saliencies(values, term), expected, rtol=1e-5)


def test_sparsegpt_costs_less_than_the_scores_without_compensation() -> None:
    values, term = random_matrix(64, 96, 9)

    def cost(pruned: NDArray[np.float32]) -> float:
        error = (pruned - values).astype(np.float64)
        return float(term.rows @ np.einsum("nk,nk->n", error @ term.columns, error))

    costs = {score: cost(prune_matrix(values, term, score, 3072)) for score in ("sparsegpt", "wanda", "magnitude")}
    assert costs["sparsegpt"] < 0.5 * costs["wanda"] < 0.5 * costs["magnitude"]


def test_wanda_and_magnitude() -> None:
    values, term = random_matrix(10, 24, 1)
    found = prune_matrix(values, term, "wanda", 120)
    for row, kept in zip(values, found, strict=True):
        gone = np.argsort(np.abs(row) * np.sqrt(np.diagonal(term.columns)))[:12]
        np.testing.assert_array_equal(np.flatnonzero(kept == 0), np.sort(gone))
        np.testing.assert_array_equal(kept[kept != 0], row[kept != 0])
    found = prune_matrix(values, None, "magnitude", 100)
    assert np.count_nonzero(found == 0) == 100
    assert np.abs(values[found == 0]).max() < np.abs(values[found != 0]).min()
    np.testing.assert_array_equal(found[found != 0], values[found != 0])


scores_strategy = st.lists(
    st.lists(st.one_of(st.just(0.0), st.floats(min_value=2.0**-100, max_value=1e9, width=32)), min_size=1, max_size=30),
    min_size=1,
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(scores_strategy, st.floats(min_value=0, max_value=1))
def test_shares_are_those_of_one_threshold(scores: list[list[float]], share: float) -> None:
    matrices = {str(i): np.array([row], np.float32) for i, row in enumerate(scores)}
    total = sum(matrix.size for matrix in matrices.values())
    count = max(1, round(share * total))
    found = shares({name: histogram(matrix) for name, matrix in matrices.items()}, count)
    assert sum(found.values()) == count
    threshold = np.sort(np.concatenate([matrix.ravel() for matrix in matrices.values()]))[count - 1]
    for name, matrix in matrices.items():  # a histogram's bin spans less than 1 %
        assert np.count_nonzero(matrix < 0.992 * threshold) <= found[name]
        assert found[name] <= np.count_nonzero(matrix <= 1.008 * threshold)


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_which_formats_keep_zeros(format: Format) -> None:
    values = np.random.default_rng(0).normal(0.1, 1.0, (64, 512)).astype(np.float32)
    zeros = np.random.default_rng(1).random(values.shape) < 0.5
    values[zeros] = 0
    kept = format.decode(format.encode(values, None))[zeros] == 0
    assert bool(kept.all()) is keeps_zeros(format)
