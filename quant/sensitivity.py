"""The error table: the predicted KL of every matrix in every candidate format."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.errors import InputError
from edgekit.models.spec import MATRIX_ROLES
from edgekit.quant.candidates import carried_formats
from edgekit.quant.formats import Format, format_of
from edgekit.quant.plan import Candidate, Sensitivity, stored_bytes
from edgekit.quant.rounding import fits_float16, round_tensor
from edgekit.quant.statistics import Importance, KroneckerTerm, MatrixStatistics

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


def error_table(
    statistics: Iterable[MatrixStatistics], checkpoint: Checkpoint, formats: Sequence[str], *, seed: int = 0
) -> tuple[list[Sensitivity], dict[str, Importance]]:
    """Every matrix, as its statistics arrive, rounded to every format that carries it, with the error's quadratic KL.

    The table comes in the order of `checkpoint.tensors`; the importances are what rounding needs later. `seed` draws
    the rows on which matrices of more than SAMPLE_WEIGHTS weights are evaluated, at the cost that `Candidate.kl_error`
    states.
    """
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors if tensor.role in MATRIX_ROLES}
    table: dict[str, Sensitivity] = {}
    importances: dict[str, Importance] = {}
    for matrix in tqdm(statistics, desc="error table", total=len(tensors), unit="matrix", disable=None):
        tensor = tensors[matrix.name]
        values = checkpoint.read(matrix.name)
        candidates = evaluate_formats(values, matrix, carried_formats(tuple(formats), values.shape[1]), seed=seed)
        table[matrix.name] = Sensitivity(
            tensor.name, tensor.role, tensor.layer, candidates, (values.shape[0], values.shape[1])
        )
        importances[matrix.name] = matrix.importance()
    order = [name for name in tensors if name in table]
    return [table[name] for name in order], {name: importances[name] for name in order}


def evaluate_formats(
    values: NDArray[np.float32], matrix: MatrixStatistics, formats: Sequence[Format], *, seed: int = 0
) -> tuple[Candidate, ...]:
    """The candidates of one matrix (N, K) float32, in ascending bytes; bf16 replaces f16 where float16 overflows."""
    if any(format.name == "f16" for format in formats) and not fits_float16(values):
        formats = [format_of("bf16") if format.name == "f16" else format for format in formats]
    sample = draw_rows(values, matrix.terms, seed=seed)
    partial = len(sample.rows) < len(values)
    importance = matrix.importance()
    if partial:
        rows = tuple(row[sample.rows] for row in importance.rows)
        importance = Importance(rows=rows, columns=importance.columns)
        values_seen = values[sample.rows]
    else:
        values_seen = values
    candidates = []
    for format in dict.fromkeys(formats):
        with np.errstate(invalid="ignore", over="ignore"):
            kl, error = sample.total(quadratic_kl(values_seen, format, matrix.terms, importance, sample.rows))
        if math.isfinite(kl):  # else the error is beyond float32's range
            candidates.append(Candidate(format.name, stored_bytes(format, values.shape), max(kl, 0.0), error))
    if not candidates:
        raise InputError(
            f'the predicted KL of "{matrix.name}" is not a finite number: its weights are out of any range'
        )
    return tuple(sorted(candidates, key=lambda candidate: (candidate.bytes, candidate.kl)))


def quadratic_kl(
    values: NDArray[np.float32],
    format: Format,
    terms: Sequence[KroneckerTerm],
    importance: Importance,
    rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Each row's share of the predicted KL, nats per token: (N,) float64, sum over terms of rows[n]/2 dw_n C dw_n.

    `values` (N, K) and `importance` are those of the matrix's rows `rows`; `terms` are the whole matrix's.
    """
    shares = np.zeros(len(values), dtype=np.float64)
    step = max(1, CHUNK_WEIGHTS // values.shape[1])
    blocks = round_tensor(values, format, importance)
    for start in range(0, len(values), step):
        stop = min(start + step, len(values))
        difference = format.decode(blocks[start:stop])
        difference -= values[start:stop]
        for term in terms:
            quadratic = np.einsum("nk,nk->n", difference @ term.columns, difference, dtype=np.float64)
            shares[start:stop] += 0.5 * term.rows[rows[start:stop]].astype(np.float64) * quadratic
    return shares


def draw_rows(values: NDArray[np.float32], terms: Sequence[KroneckerTerm], *, seed: int = 0) -> RowSample:
    """All rows of a matrix of up to SAMPLE_WEIGHTS weights; of a larger one so many, drawn in proportion to their size.

    A row's size is a guess at its share of the KL: its squared weights under the diagonals of the terms. Token
    frequencies make these heavy-tailed, so the largest are always in. The others are drawn systematically from a list
    in order of size, which spreads the sample over sizes as strata would (Madow, 1949). Rows that no term weighs
    contribute nothing and are not drawn.
    """
    count, columns = values.shape
    wanted = SAMPLE_WEIGHTS // columns
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
