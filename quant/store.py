"""What a run has learnt, on disk: memory holds one matrix's, and a killed run, or another budget, goes on from it.

    WORK/KEY/statistics/NAME.npz   rows0, columns0, held_out0, ... of one matrix, one number for each term; its rows'
                                   correlation, where it is known: fitted, held_out
    WORK/KEY/table/NAME.json       one matrix's candidates out of some formats: [[type, bytes, kl, kl_error], ...]
    WORK/KEY/blocks/NAME.npy       one matrix's blocks in one format
    WORK/KEY/klds/NAME.npy         the measured KL of each held-out token with some matrices rounded
    WORK/KEY/windows.npy           token ids sampled from the model

KEY stands for all that decides the bytes: the checkpoint's content, the calibration windows, the seed, the method.
Files are written under another name and renamed, so that one that is there is whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.errors import InputError
from edgekit.models.files import atomic_write
from edgekit.quant.formats import format_of
from edgekit.quant.formats.format import Blocks
from edgekit.quant.plan import Candidate
from edgekit.quant.statistics import KroneckerTerm, MatrixStatistics, RowCorrelation

METHOD = 5  # to be raised with every change of what statistics or rounding give


class Store:
    """The files of one checkpoint, calibration and seed."""

    def __init__(self, folder: Path) -> None:
        self._statistics, self._table = folder / "statistics", folder / "table"
        self._blocks, self._klds = folder / "blocks", folder / "klds"
        for part in (self._statistics, self._table, self._blocks, self._klds):
            _make_folder(part)

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
        return kept_array(self._blocks / f"{_digest(name, format, refinement)}.npy", make)

    def klds(
        self, formats: Mapping[str, str], refinement: str, make: Callable[[], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """The KL of each held-out token with those matrices in those formats: measured and kept where not there yet."""
        choices = sorted(f"{name} {format}" for name, format in formats.items())
        return np.array(kept_array(self._klds / f"{_digest(*choices, refinement)}.npy", make))

    def candidates(self, name: str, formats: Sequence[str]) -> tuple[Candidate, ...] | None:
        """One matrix's row of the error table for those formats, as kept; None where it is not there yet."""
        path = self._table_file(name, formats)
        if not path.exists():
            return None
        try:
            row = tuple(map(_candidate, json.loads(path.read_bytes())))
        except (OSError, ValueError, TypeError, InputError) as error:
            raise _damaged(path) from error
        if not row:
            raise _damaged(path)
        return row

    def keep_candidates(self, name: str, formats: Sequence[str], candidates: Sequence[Candidate]) -> None:
        """Keep what `candidates` gives."""
        rows = [[c.format, c.bytes, c.kl, c.kl_error] for c in candidates]
        with atomic_write(self._table_file(name, formats)) as file:
            file.write(json.dumps(rows).encode())

    def keep(self, matrix: MatrixStatistics) -> None:
        """Keep what `statistics` gives."""
        arrays: dict[str, NDArray[np.float32]] = {}
        for i, (term, held_out) in enumerate(zip(matrix.terms, matrix.held_out, strict=True)):
            arrays |= {f"rows{i}": term.rows, f"columns{i}": term.columns, f"held_out{i}": held_out}
        if matrix.correlation is not None:
            arrays |= {"fitted": matrix.correlation.fitted, "held_out": matrix.correlation.held_out}
        with atomic_write(self._statistics_file(matrix.name)) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def _statistics_file(self, name: str) -> Path:
        return self._statistics / f"{_digest(name)}.npz"

    def _table_file(self, name: str, formats: Sequence[str]) -> Path:
        return self._table / f"{_digest(name, *sorted(formats))}.json"


def kept_windows(folder: Path, make: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
    """The token ids of `folder`, made and kept there where they are not there yet."""
    _make_folder(folder)
    return np.array(kept_array(folder / "windows.npy", make))


def kept_array(path: Path, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """The array of a file, mapped: made and kept where it is not there yet. Raises InputError where it is damaged."""
    if not path.exists():
        array = make()
        with atomic_write(path) as file:
            np.save(file, array)
        del array
    try:
        return np.asarray(np.load(path, mmap_mode="c"))
    except (OSError, EOFError, ValueError) as error:
        raise _damaged(path) from error


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


def _candidate(row: Any) -> Candidate:
    format, size, kl, kl_error = row
    if not (isinstance(size, int) and math.isfinite(kl) and math.isfinite(kl_error)):
        raise ValueError(f"{row} is no candidate")
    return Candidate(format_of(format).name, size, kl, kl_error)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}: choose another") from error


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged: remove it, and it will be made again")
