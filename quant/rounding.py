"""Round a matrix to a block format: the one place that decides codes and scales."""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError
from edgekit.quant.candidates import OVERFLOW
from edgekit.quant.compensation import compensated, descended
from edgekit.quant.formats.format import Blocks, FloatRows, Format
from edgekit.quant.quadratic import quadratic_kl
from edgekit.quant.row_sample import draw_rows
from edgekit.quant.statistics import Importance, MatrixStatistics

CHUNK_WEIGHTS = 1 << 21  # rows are rounded in chunks of about this many weights: some 30 MB of working memory
CHOICE_WEIGHTS = 400_000  # how many weights' rows tell which way of rounding is the best
DAMPING = 0.01  # of a row's mean weight: an input that calibration never saw still keeps its order of magnitude


class Refinement(IntEnum):
    """The last step that rounding with statistics may take; each goes on from the one before it."""

    NONE = 0  # to nearest, the error weighted by the statistics' diagonal
    GPTQ = 1
    DESCENT = 2


def round_tensor(
    values: FloatRows,
    format: Format,
    statistics: MatrixStatistics | None = None,
    *,
    refinement: Refinement = Refinement.DESCENT,
) -> Blocks:
    """The blocks of `values` (N, K) float32 in `format`: (N, K // block * block_bytes) uint8.

    Without statistics to nearest, in scales of least squared error. With them the best, on what they hold out, of
    three: to nearest with the error weighted by their diagonal, GPTQ in the same scales, and descent from there (see
    `compensation`); `refinement` is the last of them that is tried. Descent being the last word on a matrix, its codes
    are then made anew from the statistics of all windows, by the way that was the best. Raises InputError where a row
    is not a whole number of blocks or float16 would overflow.
    """
    plain = round_to_nearest(values, format, None if statistics is None else statistics.importance())
    if statistics is None or format.unpack is None or refinement is Refinement.NONE:
        return plain
    final = refinement is Refinement.DESCENT
    sample = draw_rows(values, statistics.terms, weights=CHOICE_WEIGHTS if final else None)
    whole = len(sample.rows) == len(values)
    seen = statistics if whole else statistics.of_rows(sample.rows)
    seen_values = values if whole else values[sample.rows]
    tried = [plain if whole else plain[sample.rows]]
    tried += _refinements(seen_values, format, tried[0], seen, refinement)
    with np.errstate(invalid="ignore", over="ignore"):
        kls = [sample.total(quadratic_kl(seen_values, format, blocks, seen))[0] for blocks in tried]
    best = min(range(len(tried)), key=lambda i: kls[i] if math.isfinite(kls[i]) else math.inf)
    if final:
        statistics = statistics.on_all_windows()
        plain = round_to_nearest(values, format, statistics.importance())
    elif whole:
        return tried[best]
    return [plain, *_refinements(values, format, plain, statistics, best)][best]


def round_to_nearest(values: FloatRows, format: Format, importance: Importance | None) -> Blocks:
    """The nearest codes in scales that the format's encoder searches for the least error weighted by `importance`.

    It is the diagonal of the matrix's quadratic KL; None weighs all alike. Raises InputError as `round_tensor` does.
    """
    rows, columns = values.shape
    if not format.carries(columns):
        raise InputError(f"{format.name} cannot carry rows of {columns} weights: it takes multiples of {format.block}")
    if format.name == "f16" and not fits_float16(values):
        raise InputError("a matrix has weights beyond float16's range: choose bf16 or a narrower type in place of f16")
    blocks = np.empty((rows, format.bytes(1, columns)), dtype=np.uint8)
    step = max(1, CHUNK_WEIGHTS // columns)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        weights = None if importance is None else damped(importance.weights(start, stop))
        blocks[start:stop] = format.encode(np.ascontiguousarray(values[start:stop], dtype=np.float32), weights)
    return blocks


def fits_float16(values: FloatRows) -> bool:
    """Whether no value overflows as float16; takes no memory of the values' size."""
    return values.size == 0 or (float(values.max()) <= OVERFLOW and float(values.min()) >= -OVERFLOW)


def damped(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights (K,) or (N, K) scaled to a mean of 1 within each row, plus the damping; rows of zeros weigh all alike."""
    mean = weights.mean(axis=-1, keepdims=True, dtype=np.float64)
    scaled = np.divide(weights, mean, out=np.ones(weights.shape, dtype=np.float64), where=mean > 0)
    return np.asarray(scaled + DAMPING, dtype=np.float32)


def _refinements(
    values: FloatRows, format: Format, plain: Blocks, statistics: MatrixStatistics, steps: int
) -> list[Blocks]:
    """The blocks after GPTQ and after descent: the first `steps` of the two."""
    results = compensated(values, [(format, plain)], statistics) if steps else []
    if steps > 1:
        results.append(descended(values, format, results[0], statistics))
    return results
