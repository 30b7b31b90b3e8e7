"""The error table: the predicted KL of every matrix in every candidate format."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.errors import InputError
from edgekit.quant.candidates import carried_formats
from edgekit.quant.compensation import compensated
from edgekit.quant.containers import GGUF
from edgekit.quant.formats import Format, format_of
from edgekit.quant.plan import Candidate, Sensitivity
from edgekit.quant.quadratic import quadratic_kl
from edgekit.quant.rounding import fits_float16, round_to_nearest
from edgekit.quant.row_sample import draw_rows
from edgekit.quant.statistics import MatrixStatistics


def error_rows(
    statistics: Iterable[MatrixStatistics], checkpoint: Checkpoint, formats: Sequence[str], *, seed: int = 0
) -> Iterator[tuple[str, tuple[Candidate, ...]]]:
    """Every matrix, as its statistics arrive, rounded to every format that carries it, with the error's quadratic KL.

    `seed` draws the rows on which large matrices are evaluated, at the cost that `Candidate.kl_error` states.
    """
    for matrix in statistics:
        values = checkpoint.read(matrix.name)
        carried = carried_formats(tuple(formats), values.shape[1])
        yield matrix.name, evaluate_formats(values, matrix, carried, seed=seed)


def table_of(rows: Mapping[str, tuple[Candidate, ...]], checkpoint: Checkpoint) -> list[Sensitivity]:
    """The rows in the order of `checkpoint.tensors`, with what the checkpoint knows of each matrix."""
    return [
        Sensitivity(tensor.name, tensor.role, tensor.layer, rows[tensor.name], (tensor.shape[0], tensor.shape[1]))
        for tensor in checkpoint.tensors
        if tensor.name in rows
    ]


def evaluate_formats(
    values: NDArray[np.float32], matrix: MatrixStatistics, formats: Sequence[Format], *, seed: int = 0
) -> tuple[Candidate, ...]:
    """The candidates of one matrix (N, K) float32, in ascending GGUF bytes; bf16 replaces f16 where float16 overflows.

    Each is rounded to nearest and by GPTQ on the windows of the fit; its KL is the smaller one on those held out.
    """
    if any(format.name == "f16" for format in formats) and not fits_float16(values):
        formats = [format_of("bf16") if format.name == "f16" else format for format in formats]
    formats = tuple(dict.fromkeys(formats))
    shape = values.shape
    sample = draw_rows(values, matrix.terms, seed=seed)
    if len(sample.rows) < len(values):
        values, matrix = values[sample.rows], matrix.of_rows(sample.rows)
    importance = matrix.importance()
    with np.errstate(invalid="ignore", over="ignore"):
        tried = [(format, round_to_nearest(values, format, importance)) for format in formats]
        plain = [(format, blocks) for format, blocks in tried if format.unpack is not None]
        better = compensated(values, plain, matrix) if plain else []
        tried += [(format, blocks) for (format, _), blocks in zip(plain, better, strict=True)]
        kls: dict[str, tuple[float, float]] = {}
        for format, blocks in tried:
            kl, error = sample.total(quadratic_kl(values, format, blocks, matrix))
            if math.isfinite(kl):  # else the error is beyond float32's range
                kls[format.name] = min(kls.get(format.name, (math.inf, 0.0)), (max(kl, 0.0), error))
    if not kls:
        raise InputError(
            f'the predicted KL of "{matrix.name}" is not a finite number: its weights are out of any range'
        )
    candidates = [Candidate(name, GGUF.stored_bytes(format_of(name), shape), *kl) for name, kl in kls.items()]
    return tuple(sorted(candidates, key=lambda candidate: (candidate.bytes, candidate.kl)))
