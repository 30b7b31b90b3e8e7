"""Rounding in which the rows of a matrix make up for each other's errors too.

The outputs of some layers go where the model weighs them together: the rows of an attention's or a feed-forward
layer's last matrix are directions of the residual stream, and what changes along many of them is felt along few
combinations only. With all of O = H_O in place of its diagonal, the KL of the error E (N, K) is 1/2 tr(O E C E^T). For
blocks of rows a < b let O = U D U^T with U unit upper triangular in blocks; then

    tr(O E C E^T) = sum_b tr(D_b F_b C F_b^T),    F_b = E_b + sum_{a < b} U_ab^T E_a

so that block b is rounded as if its weights were W_b - sum_a U_ab^T E_a: GPTQ over the rows, as it is over the columns.
Descent on block b, with all others fixed, does the same with E_b + O_bb^-1 sum_{a != b} O_ba E_a. Within a block the
diagonals of D and O stand for them, and what descent finds is taken only where the whole falls.

This helps where O is far from its diagonal, and what calibration saw of it holds for other text: queries and keys,
whose gradients go through the softmax, have no such O. So it is asked of the windows held out what feedback does to
white noise, and rows are taken as independent where that is little.

Source: Tseng et al., arXiv 2505.22988 (YAQA: feedback from both sides).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgekit import _native
from edgekit.quant.formats.block import threads
from edgekit.quant.formats.format import Blocks, FloatRows, Format

ROWS_AT_ONCE = 64  # fewer gain a little more, but the C core takes 64 side by side
DAMPING = 0.2  # of the mean diagonal, added to it: gradients are noisier than inputs
PASSES, SWEEPS = 2, 2  # of descent: over the blocks of rows, and within each

FloatMatrix = NDArray[np.float32]


def outer_hessian(rows: FloatMatrix, correlation: FloatMatrix) -> FloatMatrix:
    """O (N, N), damped: `rows` (N,) its diagonal before, `correlation` (N, N)."""
    roots = np.sqrt(rows)
    outer = correlation * roots * roots[:, None]
    mean = float(rows.mean(dtype=np.float64))
    outer[np.diag_indices_from(outer)] += DAMPING * mean if mean > 0 else 1.0
    return np.asarray(outer, dtype=np.float32)


def noise_left(outer: FloatMatrix, judge: FloatMatrix) -> float:
    """The cost under `judge` (N, N) of white noise with the feedback of `outer` (N, N), over its cost without any.

    With F white, E follows from L E = F, where L is unit lower triangular in blocks: its cost is tr(judge (L^T L)^-1).
    """
    lower = np.eye(len(outer))
    for block, feedback in _feedback(outer):
        lower[block, : block.start] = feedback
    shaped = np.linalg.inv(lower)
    total = float(np.trace(judge, dtype=np.float64))
    return float(np.vdot(judge @ shaped, shaped)) / total if total > 0 else 1.0


def compensated_in_turn(
    values: FloatRows,
    format: Format,
    plain: Blocks,
    outer: FloatMatrix,
    factor: FloatMatrix,
    order: NDArray[np.int32],
) -> Blocks:
    """GPTQ of `values` (N, K) in the scales of `plain` (N, B): `outer` (N, N) is O, `factor` and `order` are C's."""
    result, errors = np.empty_like(plain), np.zeros_like(values)
    for block, feedback in _feedback(outer):
        wanted = values[block] - feedback.astype(np.float32) @ errors[: block.start]
        result[block] = _native.compensate(format.name, wanted, plain[block], factor, order, threads())
        errors[block] = format.decode(result[block]) - values[block]
    return result


def descended_in_turn(
    values: FloatRows, format: Format, blocks: Blocks, outer: FloatMatrix, hessian: FloatMatrix
) -> Blocks:
    """The blocks (N, B) of `values` (N, K) after descent; tr(O E C E^T) never rises. `hessian` (K, K) is C."""
    result = blocks.copy()
    errors = format.decode(result) - values
    for _ in range(PASSES):
        for block in _blocks(len(values)):
            pull = outer[block] @ errors
            wanted = np.asarray(values[block] + errors[block] - pull / np.diagonal(outer)[block, None], np.float32)
            found, _ = _native.descend(format.name, wanted, result[block], hessian, SWEEPS, threads())
            step = format.decode(found) - values[block] - errors[block]
            change = np.vdot((2 * pull + outer[block, block] @ step) @ hessian, step)
            if change < 0:
                result[block] = found
                errors[block] += step
    return result


def _feedback(outer: FloatMatrix) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Each block of rows (B of them) with U_ab^T for all rows before it: (B, rows before)."""
    upper = np.linalg.cholesky(outer[::-1, ::-1].astype(np.float64))[::-1, ::-1]  # upper @ upper^T = O
    for block in _blocks(len(outer)):
        feedback = np.linalg.solve(upper[block, block].T, upper[: block.start, block].T)
        yield block, np.asarray(feedback, dtype=np.float64)


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS_AT_ONCE, rows)) for start in range(0, rows, ROWS_AT_ONCE))
