"""What calibration learns of each matrix: a Kronecker-factored Fisher of the model's own predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class KroneckerTerm:
    """One term of a matrix's quadratic KL: 1/2 sum_n rows[n] * dw_n @ columns @ dw_n, in nats per token.

    rows (N,) float32; columns (K, K) float32. For a linear layer rows is the diagonal of H_O = E[g g^T] and columns is
    H_I / E|g|^2 with H_I = E[|g|^2 x x^T]: g is the gradient, at the linear's output, of the log-likelihood of a label
    drawn from the model's own softmax (K-FAC, Martens and Grosse, arXiv 1503.05671, with the gradient-weighted input moment).
    """

    rows: NDArray[np.float32]
    columns: NDArray[np.float32]


@dataclass(frozen=True)
class MatrixStatistics:
    """The statistics of one matrix. A tied embedding has two terms: as head, and as looked-up input rows."""

    name: str  # the tensor's Hugging Face name
    terms: tuple[KroneckerTerm, ...]

    def importance(self) -> "Importance":
        """What rounding needs once the moments are dropped."""
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
        return np.sum(parts, axis=0, dtype=np.float32)
