"""Unstructured sparsity: which weights become zero, and how the others make up for it.

Setting weights of a row n to zero costs rows[n]/2 * e C e^T of KL (`statistics`). Taken one column after another, with
the columns to come free to compensate, the least that weight (n, k) costs is

    saliency[n, k] = rows[n]/2 * w[n, k]^2 / U[k, k]^2,     H^-1 = U^T U,  U upper triangular,  H = C damped

where w is what compensation has made of the weight by then (SparseGPT: Frantar and Alistarh, arXiv 2301.00774, with
the gradient-weighted H and, from rows, a common scale). The scale makes weights of different rows and matrices
comparable: one threshold over the whole model decides how many weights each matrix loses.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgekit.quant.formats import Format
from edgekit.quant.statistics import KroneckerTerm

FloatMatrix = NDArray[np.float64]

SCORES = ("sparsegpt", "wanda", "magnitude")
BLOCK = 32  # columns whose masks are chosen at once, after compensation for those before them
DAMPING = 0.01  # of the mean: H stays invertible, and outputs that calibration never used keep some weight
BINS = 1 << 16  # of a histogram of saliencies: float32's sign, exponent and 7 bits


def prune_matrix(
    values: NDArray[np.float32], term: KroneckerTerm | None, score: str, count: int
) -> NDArray[np.float32]:
    """The matrix (N, K) with at least `count` zeros, by one of the scores.

    "sparsegpt": the least saliency, compensated (above). "wanda": the least |w| * sqrt(C[k, k]) within each row (Sun et
    al., arXiv 2306.11695). "magnitude": the least |w| in the matrix, which alone needs no `term`.
    """
    if score == "magnitude":
        return _without(values, _least(np.abs(values), count))
    assert term is not None
    if score == "wanda":
        return _without(values, _least_in_rows(np.abs(values) * np.sqrt(np.diagonal(term.columns)), count))
    return compensated(values, term, count)


def compensated(values: NDArray[np.float32], term: KroneckerTerm, count: int) -> NDArray[np.float32]:
    """SparseGPT: the matrix (N, K) with `count` weights of least saliency set to zero and the others adjusted.

    Columns are taken in ascending order of H's diagonal, so that the inputs that matter most make up for the others;
    how many weights each block of BLOCK columns loses follows from the saliencies before any compensation.
    """
    order = np.argsort(np.diagonal(term.columns), kind="stable")
    w = values[:, order].astype(np.float64)
    u = compensation_factor(term.columns[np.ix_(order, order)])
    scale = _row_weights(term)[:, None] / np.square(np.diagonal(u))  # (N, K)
    quota = _least(np.square(w) * scale, count).sum(axis=0)  # (K,)
    for start in range(0, w.shape[1], BLOCK):
        block = slice(start, min(start + BLOCK, w.shape[1]))
        mask = _least(np.square(w[:, block]) * scale[:, block], int(quota[block].sum()))
        errors = np.zeros(mask.shape)
        for i, k in enumerate(range(block.start, block.stop)):
            errors[:, i] = np.where(mask[:, i], w[:, k], 0.0) / u[k, k]
            w[:, k : block.stop] -= np.outer(errors[:, i], u[k, k : block.stop])
        w[:, block][mask] = 0.0  # but for rounding they are already
        w[:, block.stop :] -= errors @ u[block, block.stop :]
    result = np.empty_like(values)
    result[:, order] = w
    return result


def compensation_factor(columns: NDArray[np.float32]) -> FloatMatrix:
    """U (K, K), upper triangular, with U^T U the inverse of the damped `columns` (K, K)."""
    h = columns.astype(np.float64)
    mean = float(np.trace(h)) / len(h)
    h[np.diag_indices_from(h)] += DAMPING * mean if mean > 0 else 1.0
    return np.ascontiguousarray(np.linalg.cholesky(np.linalg.inv(h)).T)


def saliencies(values: NDArray[np.float32], term: KroneckerTerm) -> NDArray[np.float32]:
    """(N, K): what zeroing each weight would cost before any compensation, in nats per token."""
    order = np.argsort(np.diagonal(term.columns), kind="stable")
    diagonal = np.empty(len(order))
    diagonal[order] = np.diagonal(compensation_factor(term.columns[np.ix_(order, order)]))
    weights = _row_weights(term) / 2
    return np.asarray(np.square(values / diagonal) * weights[:, None], dtype=np.float32)


def histogram(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """(BINS,) counts of non-negative float32 by their upper 16 bits, which order them to within 1 %."""
    return np.bincount((np.ascontiguousarray(scores).view(np.uint32) >> 16).ravel(), minlength=BINS)


def shares(histograms: Mapping[str, NDArray[np.int64]], count: int) -> dict[str, int]:
    """How many weights each matrix loses where the `count` least salient of all matrices go, `count` in sum.

    Of the bin that holds the threshold each matrix loses the same part.
    """
    total = np.zeros(BINS, np.int64)
    for counts in histograms.values():
        total += counts
    ends = np.cumsum(total)
    last = int(np.searchsorted(ends, count))
    below = int(ends[last] - total[last])
    taken, result, spread, given = count - below, {}, 0, 0
    for name, counts in histograms.items():
        spread += int(counts[last])
        part = spread * taken // int(total[last]) - given  # rounded such that the parts add up
        given += part
        result[name] = int(counts[:last].sum()) + part
    return result


def keeps_zeros(format: Format) -> bool:
    """Whether zero is among the numbers that a block of the format always holds, whatever its scale."""
    if format.unpack is None:
        return True
    codes = format.unpack(format.encode(np.ones((1, format.block), np.float32), None))
    return codes.minima is None and (codes.levels is None or bool((codes.levels == 0).any()))


def _row_weights(term: KroneckerTerm) -> NDArray[np.float64]:
    rows = term.rows.astype(np.float64)
    mean = float(rows.mean())
    return rows + (DAMPING * mean if mean > 0 else 1.0)


def _least(scores: NDArray[np.floating], count: int) -> NDArray[np.bool_]:
    """A mask of the `count` least scores of a matrix."""
    mask = np.zeros(scores.size, dtype=bool)
    if count:
        mask[np.argpartition(scores.ravel(), count - 1)[:count]] = True
    return mask.reshape(scores.shape)


def _least_in_rows(scores: NDArray[np.floating], count: int) -> NDArray[np.bool_]:
    """A mask of the least scores of each row, as many in all rows, `count` or up to a row's number more in all."""
    each = -(-count // len(scores))
    mask = np.zeros(scores.shape, dtype=bool)
    if each:
        np.put_along_axis(mask, np.argpartition(scores, each - 1, axis=1)[:, :each], True, axis=1)
    return mask


def _without(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.where(mask, np.float32(0), values)
