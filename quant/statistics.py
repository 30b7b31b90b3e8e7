"""What is known of a matrix when it is rounded: its quadratic KL as a sum of Kronecker products (see `collection`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

HELD_OUT_EVERY = 4  # one window of so many is held out


@dataclass(frozen=True)
class KroneckerTerm:
    """One term of a matrix's quadratic KL: 1/2 sum_n rows[n] * dw_n @ columns @ dw_n, in nats per token.

    rows (N,) float32; columns (K, K) float32. For a linear layer rows is the diagonal of H_O = E[g g^T], scaled for the
    cross terms of different tokens (s in `collection`), and columns is H_I / E|g|^2 with H_I = E[|g|^2 x x^T]: g is the
    gradient, at the linear's output, of the log-likelihood of a label drawn from the model's own softmax (K-FAC,
    Martens and Grosse, arXiv 1503.05671, with the gradient-weighted input moment).
    """

    rows: NDArray[np.float32]
    columns: NDArray[np.float32]


@dataclass(frozen=True)
class RowCorrelation:
    """H_O[n, m] / sqrt(H_O[n, n] H_O[m, m]), (N, N) float32, of the windows to fit on and of those held out."""

    fitted: NDArray[np.float32]
    held_out: NDArray[np.float32]


@dataclass(frozen=True)
class MatrixStatistics:
    """The statistics of one matrix. A tied embedding has two terms: as head, and as looked-up input rows.

    The terms' columns are those of the windows on which rounding is fitted; their rows are those of all windows.
    `held_out` (K, K) per term: the columns of the windows held out, on which the KL is predicted. `correlation`: of the
    rows of the only term; None where they are taken as independent.
    """

    name: str  # the tensor's Hugging Face name
    terms: tuple[KroneckerTerm, ...]
    held_out: tuple[NDArray[np.float32], ...]
    correlation: RowCorrelation | None = None

    def of_rows(self, rows: NDArray[np.int64]) -> MatrixStatistics:
        """Those of some of the matrix's rows."""
        terms = tuple(replace(term, rows=term.rows[rows]) for term in self.terms)
        if self.correlation is None:
            return replace(self, terms=terms)
        pairs = np.ix_(rows, rows)
        correlation = RowCorrelation(self.correlation.fitted[pairs], self.correlation.held_out[pairs])
        return replace(self, terms=terms, correlation=correlation)

    def on_all_windows(self) -> MatrixStatistics:
        """With the columns of all windows to fit on, each side's mean weighted by how many windows it has."""
        apart = 1 / HELD_OUT_EVERY

        def mixed(fitted: NDArray[np.float32], held_out: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.asarray((1 - apart) * fitted + apart * held_out, dtype=np.float32)

        terms = tuple(
            replace(term, columns=mixed(term.columns, held_out))
            for term, held_out in zip(self.terms, self.held_out, strict=True)
        )
        if self.correlation is None:
            return replace(self, terms=terms)
        fitted = mixed(self.correlation.fitted, self.correlation.held_out)
        return replace(self, terms=terms, correlation=replace(self.correlation, fitted=fitted))

    def importance(self) -> Importance:
        """The diagonals of the terms: what rounding to nearest can take account of."""
        return Importance(
            rows=tuple(term.rows for term in self.terms),
            columns=tuple(np.ascontiguousarray(np.diagonal(term.columns)) for term in self.terms),
        )


@dataclass(frozen=True)
class Importance:
    """The diagonals: weight of element (n, k) = sum over terms of rows[n] * columns[k]."""

    rows: tuple[NDArray[np.float32], ...]
    columns: tuple[NDArray[np.float32], ...]

    def weights(self, start: int, stop: int) -> NDArray[np.float32]:
        """(K,) where one term serves all rows (its row weight cancels within a row), else (stop - start, K)."""
        if len(self.columns) == 1:
            return self.columns[0]
        parts = [np.outer(rows[start:stop], columns) for rows, columns in zip(self.rows, self.columns, strict=True)]
        return np.asarray(np.sum(parts, axis=0, dtype=np.float32))
