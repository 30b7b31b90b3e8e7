"""The predicted KL of rounded rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.quant.formats.format import Blocks, FloatRows, Format
from edgekit.quant.statistics import MatrixStatistics

CHUNK_WEIGHTS = 1 << 21


def quadratic_kl(
    values: FloatRows, format: Format, blocks: Blocks, statistics: MatrixStatistics
) -> NDArray[np.float64]:
    """Each row's share of the KL, nats per token: (N,) float64, sum over terms of rows[n]/2 e_n C e_n.

    C is each term's columns on the windows held out, e the error of `blocks` (N, B) of `values` (N, K). Where the rows'
    correlation R is known, the share is 1/2 sqrt(rows[n]) e_n C sum_m R[n, m] sqrt(rows[m]) e_m, also held out: of
    rows that are a sample, the pairs within it.
    """
    shares = np.zeros(len(values), dtype=np.float64)
    correlation = statistics.correlation
    if correlation is not None:
        (term,), (columns,) = statistics.terms, statistics.held_out
        error = (format.decode(blocks) - values) * np.sqrt(term.rows)[:, None]
        products = np.einsum("nk,nk->n", error @ columns, correlation.held_out @ error, dtype=np.float64)
        return np.asarray(0.5 * products)
    step = max(1, CHUNK_WEIGHTS // values.shape[1])
    for start in range(0, len(values), step):
        stop = min(start + step, len(values))
        error = format.decode(blocks[start:stop])
        error -= values[start:stop]
        for term, columns in zip(statistics.terms, statistics.held_out, strict=True):
            quadratic = np.einsum("nk,nk->n", error @ columns, error, dtype=np.float64)
            shares[start:stop] += 0.5 * term.rows[start:stop].astype(np.float64) * quadratic
    return shares
