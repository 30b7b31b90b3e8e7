"""Rounding in which the weights of a row make up for each other's errors, within a block format's grid.

With e = decoded - w, row n costs 1/2 e^T H e, where H is the sum over the matrix's terms of rows[n] * columns. Rounding
to nearest sees H's diagonal only. GPTQ (Frantar et al., arXiv 2210.17323) rounds one column after another, those of the
largest diagonal first, and after each moves the columns still to come to where they cancel most of its error: with the
upper Cholesky factor U of H^-1, by -(error / U[k, k]) U[k, k+1:]. Scales stay as the weighted search found them (static
groups). Descent then goes over all scales, minima and codes again and again, and changes those that lower the whole
quadratic. GPTQ in the scales that descent has found, and descent from there, end lower in most rows, by some percent:
of the two, each row keeps the better.

The rows of a linear layer share one H up to a factor; where their outputs' gradients were correlated, they make up for
each other's errors as well (see `coupling`). Those of a tied embedding do not share H: as head and as
looked-up input they have two terms in any proportion, so that rows of about the same proportion are rounded together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit import _native
from edgekit.models.errors import InputError
from edgekit.quant.coupling import compensated_in_turn, descended_in_turn, outer_hessian
from edgekit.quant.formats.block import threads
from edgekit.quant.formats.format import Blocks, FloatRows, Format
from edgekit.quant.statistics import MatrixStatistics

DAMPING = 0.1  # of the mean diagonal, added to it; GPTQ's 0.01 follows the noise of a few thousand tokens
SWEEPS = 3  # of descent; most rows are at rest before
PROPORTION_STEP = 0.5  # rows of one group have proportions of their two terms within this natural logarithm
CHUNK_WEIGHTS = 1 << 22
LARGEST_PROPORTION = 100.0  # beyond it, or below one over it, the smaller term hardly matters


@dataclass(frozen=True)
class RowGroup:
    """Rows (R,) of a matrix with the same Hessian up to a factor: (K, K) float32, damped.

    With `outer` (R, R) float32, all rows of the matrix, and they make up for each other's errors.
    """

    rows: NDArray[np.int64]
    hessian: NDArray[np.float32]
    outer: NDArray[np.float32] | None = None

    def chunks(self) -> Iterator[NDArray[np.int64]]:
        """The rows, so many at a time that copies of them are small."""
        step = max(1, CHUNK_WEIGHTS // len(self.hessian))
        return (self.rows[start : start + step] for start in range(0, len(self.rows), step))

    def order_and_factor(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """GPTQ's order of columns (K,), and the upper Cholesky factor (K, K) of H^-1 in that order."""
        order = np.argsort(-np.diagonal(self.hessian), kind="stable")
        ordered = self.hessian[np.ix_(order, order)].astype(np.float64)
        # With rows and columns in reverse, L L^T = H gives U^-1: one factorisation, one inverse of a triangle.
        lower = np.linalg.cholesky(ordered[::-1, ::-1])
        factor = _inverse_of_upper(np.asarray(lower[::-1, ::-1], dtype=np.float64))
        return order.astype(np.int32), np.ascontiguousarray(factor, dtype=np.float32)


def row_groups(statistics: MatrixStatistics) -> Iterator[RowGroup]:
    """All rows of a matrix, in groups; one group where there is one term. Raises InputError for NaN or infinity."""
    terms, correlation = statistics.terms, statistics.correlation
    if len(terms) == 1:
        outer = None if correlation is None else outer_hessian(terms[0].rows, correlation.fitted)
        yield RowGroup(np.arange(len(terms[0].rows)), _damped(terms[0].columns), outer)
        return
    head, lookup = terms
    traces = [float(np.trace(term.columns, dtype=np.float64)) or 1.0 for term in terms]
    sizes = [term.rows.astype(np.float64) * trace for term, trace in zip(terms, traces, strict=True)]
    floor = 1e-300
    limit = np.log(LARGEST_PROPORTION)
    proportions = np.clip(np.log(np.maximum(sizes[1], floor)) - np.log(np.maximum(sizes[0], floor)), -limit, limit)
    numbers = np.floor(proportions / PROPORTION_STEP)
    for number in np.unique(numbers):
        rows = np.flatnonzero(numbers == number)
        weights = (sizes[0] + sizes[1])[rows]
        mean = np.average(proportions[rows], weights=weights if weights.sum() > 0 else None)
        yield RowGroup(rows, _damped(head.columns / traces[0] + lookup.columns * (np.exp(mean) / traces[1])))


def compensated(
    values: FloatRows, plain: Sequence[tuple[Format, Blocks]], statistics: MatrixStatistics
) -> list[Blocks]:
    """GPTQ of `values` (N, K) in each block format, in the scales of its `plain` blocks (N, B)."""
    results = [np.empty_like(blocks) for _, blocks in plain]
    for group in row_groups(statistics):
        order, factor = group.order_and_factor()
        if group.outer is not None:
            results = [compensated_in_turn(values, *blocks, group.outer, factor, order) for blocks in plain]
            continue
        for rows in group.chunks():
            chosen = values[rows]
            for (format, blocks), result in zip(plain, results, strict=True):
                result[rows] = _native.compensate(format.name, chosen, blocks[rows], factor, order, threads())
    return results


def descended(values: FloatRows, format: Format, blocks: Blocks, statistics: MatrixStatistics) -> Blocks:
    """The blocks (N, B) of `values` (N, K) after coordinate descent, and after GPTQ and descent from there."""
    result = np.empty_like(blocks)
    for group in row_groups(statistics):
        if group.outer is not None:
            result = descended_in_turn(values, format, blocks, group.outer, group.hessian)
            continue
        order, factor = group.order_and_factor()
        for rows in group.chunks():
            chosen = values[rows]
            first, errors = _native.descend(format.name, chosen, blocks[rows], group.hessian, SWEEPS, threads())
            again = _native.compensate(format.name, chosen, first, factor, order, threads())
            again, others = _native.descend(format.name, chosen, again, group.hessian, SWEEPS, threads())
            result[rows] = np.where((others < errors)[:, None], again, first)
    return result


def _inverse_of_upper(upper: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of an upper triangle (K, K), by halves: a third of a general inverse's work."""
    half = len(upper) // 2
    if half < 32:
        return np.triu(np.linalg.inv(upper))
    first, last = _inverse_of_upper(upper[:half, :half]), _inverse_of_upper(upper[half:, half:])
    inverse = np.zeros_like(upper)
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[:half, half:] = -(first @ upper[:half, half:]) @ last
    return inverse


def _damped(hessian: NDArray[np.float32]) -> NDArray[np.float32]:
    damped = hessian.astype(np.float64)
    if not np.isfinite(damped).all():
        raise InputError("calibration gave moments that are not finite numbers: the model's activations overflow")
    mean = float(np.trace(damped)) / len(damped)
    damped[np.diag_indices_from(damped)] += DAMPING * mean if mean > 0 else 1.0
    return np.ascontiguousarray(damped, dtype=np.float32)
