"""Statistics and rounded matrices on disk: memory holds one matrix's, and a run that was killed goes on from them.

    WORK/KEY/statistics/NAME.npz   rows0, columns0, held_out0, ... of one matrix, one number for each term; its rows'
                                   correlation, where it is known: fitted, held_out
    WORK/KEY/blocks/NAME.npy       one matrix's blocks in one format

KEY stands for all that decides the bytes: the checkpoint's content, the calibration windows, the seed, the method.
Files are written under another name and renamed, so that one that is there is whole.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.errors import InputError
from edgekit.models.files import atomic_write
from edgekit.quant.formats.format import Blocks
from edgekit.quant.statistics import KroneckerTerm, MatrixStatistics, RowCorrelation

METHOD = 3  # to be raised with every change of what statistics or rounding give


class Store:
    """The files of one checkpoint, calibration and seed."""

    def __init__(self, folder: Path) -> None:
        self._statistics, self._blocks = folder / "statistics", folder / "blocks"
        try:
            for part in (self._statistics, self._blocks):
                part.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error.strerror}: choose another") from error

    def collected(
        self, names: Sequence[str], collect: Callable[[], Iterator[MatrixStatistics]]
    ) -> Iterator[MatrixStatistics]:
        """The statistics of those matrices: the kept ones where all are there, else collected and kept."""
        if self.complete(names):
            yield from map(self.statistics, names)
            return
        for matrix in collect():
            self._keep(matrix)
            yield matrix

    def complete(self, names: Sequence[str]) -> bool:
        """Whether the statistics of all those matrices are there."""
        return all(self._statistics_file(name).exists() for name in names)

    def statistics(self, name: str) -> MatrixStatistics:
        """One matrix's, as kept."""
        path = self._statistics_file(name)
        try:
            with np.load(path) as arrays:
                terms = tuple(
                    KroneckerTerm(arrays[f"rows{i}"], arrays[f"columns{i}"]) for i in range(len(arrays.files) // 3)
                )
                known = "fitted" in arrays
                correlation = RowCorrelation(arrays["fitted"], arrays["held_out"]) if known else None
                held_out = tuple(arrays[f"held_out{i}"] for i in range(len(terms)))
                return MatrixStatistics(name, terms, held_out, correlation)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise _damaged(path) from error

    def blocks(self, name: str, format: str, refinement: str, make: Callable[[], Blocks]) -> Blocks:
        """One matrix's blocks (N, B) in one format, refined one way, mapped: made and kept where not there yet."""
        path = self._blocks / f"{_digest(name, format, refinement)}.npy"
        if not path.exists():
            blocks = make()
            with atomic_write(path) as file:
                np.save(file, blocks)
            del blocks
        try:
            return np.asarray(np.load(path, mmap_mode="c"))
        except (OSError, EOFError, ValueError) as error:
            raise _damaged(path) from error

    def _keep(self, matrix: MatrixStatistics) -> None:
        arrays: dict[str, NDArray[np.float32]] = {}
        for i, (term, held_out) in enumerate(zip(matrix.terms, matrix.held_out, strict=True)):
            arrays |= {f"rows{i}": term.rows, f"columns{i}": term.columns, f"held_out{i}": held_out}
        if matrix.correlation is not None:
            arrays |= {"fitted": matrix.correlation.fitted, "held_out": matrix.correlation.held_out}
        with atomic_write(self._statistics_file(matrix.name)) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def _statistics_file(self, name: str) -> Path:
        return self._statistics / f"{_digest(name)}.npz"


@contextmanager
def work_folder(work: Path | None) -> Iterator[Path]:
    """The user's folder, which is kept, or a temporary one."""
    if work is not None:
        yield work
        return
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        yield Path(folder)


def store_key(checkpoint: Checkpoint, windows_sha256: str, seed: int) -> str:
    """The name of the folder of a checkpoint's values, calibration windows and seed."""
    digest = hashlib.sha256(f"{METHOD} {windows_sha256} {seed}".encode())
    for tensor in checkpoint.tensors:
        digest.update(f"{tensor.name} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(checkpoint.read(tensor.name)).data)
    return digest.hexdigest()[:32]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged: remove it, and it will be made again")
