"""Statistics and rounded matrices on disk: whole or not there, and a killed run goes on to the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit import InputError
from edgekit.models.spec import TensorSpec
from edgekit.quant.statistics import KroneckerTerm, MatrixStatistics, RowCorrelation
from edgekit.quant.store import Store, store_key, work_folder

SAMPLE = Path(__file__).parent / "assets" / "sample"


def make_statistics(name: str, terms: int = 1) -> MatrixStatistics:
    generator = np.random.default_rng(len(name))
    parts = tuple(
        KroneckerTerm(generator.random(5, np.float32), generator.random((4, 4), np.float32)) for _ in range(terms)
    )
    held_out = tuple(generator.random((4, 4), np.float32) for _ in range(terms))
    correlation = RowCorrelation(*generator.random((2, 5, 5), np.float32)) if terms == 1 else None
    return MatrixStatistics(name, parts, held_out, correlation)


def assert_same(found: MatrixStatistics, expected: MatrixStatistics) -> None:
    assert found.name == expected.name and len(found.terms) == len(expected.terms) == len(found.held_out)
    for term, other in zip(found.terms, expected.terms, strict=True):
        np.testing.assert_array_equal(term.rows, other.rows)
        np.testing.assert_array_equal(term.columns, other.columns)
    for columns, others in zip(found.held_out, expected.held_out, strict=True):
        np.testing.assert_array_equal(columns, others)
    assert (found.correlation is None) == (expected.correlation is None)
    if found.correlation is not None and expected.correlation is not None:
        np.testing.assert_array_equal(found.correlation.fitted, expected.correlation.fitted)
        np.testing.assert_array_equal(found.correlation.held_out, expected.correlation.held_out)


def test_statistics_come_back(tmp_path: Path) -> None:
    expected = {"model/a.weight": make_statistics("model/a.weight"), "tied": make_statistics("tied", terms=2)}
    runs = []

    def collect() -> Iterator[MatrixStatistics]:
        runs.append(1)
        yield from expected.values()

    for _ in range(2):
        store = Store(tmp_path / "key")
        found = {matrix.name: matrix for matrix in store.collected(list(expected), collect)}
        assert found.keys() == expected.keys()
        for name, matrix in expected.items():
            assert_same(found[name], matrix)
            assert_same(store.statistics(name), matrix)
    assert len(runs) == 1


def test_half_of_the_statistics_are_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        list(store.collected(["a", "b"], lambda: interrupted([make_statistics("a")])))
    assert not store.complete(["a", "b"])
    list(store.collected(["a", "b"], lambda: iter([make_statistics("a"), make_statistics("b")])))
    assert store.complete(["a", "b"])


def interrupted(matrices: list[MatrixStatistics]) -> Iterator[MatrixStatistics]:
    yield from matrices
    raise KeyboardInterrupt


def test_blocks_are_made_once_per_matrix_format_and_method(tmp_path: Path) -> None:
    made = []

    def make() -> np.ndarray:
        made.append(1)
        return np.full((3, 18), len(made), np.uint8)

    store = Store(tmp_path)
    kinds = [("a", "q4_0", True), ("a", "q4_0", False), ("a", "q5_0", True), ("b", "q4_0", True)]
    first = [store.blocks(*kind, make) for kind in kinds]
    again = [Store(tmp_path).blocks(*kind, make) for kind in kinds]
    assert len(made) == 4
    for number, (blocks, others) in enumerate(zip(first, again, strict=True), 1):
        assert blocks.dtype == np.uint8 and blocks.shape == (3, 18) and (blocks == number).all()
        np.testing.assert_array_equal(blocks, others)


def test_blocks_whose_making_fails_are_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail() -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.blocks("a", "q4_0", True, fail)
    assert (store.blocks("a", "q4_0", True, lambda: np.ones((1, 18), np.uint8)) == 1).all()


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_damaged_file_is_named(keep: int, tmp_path: Path) -> None:
    store = Store(tmp_path)
    list(store.collected(["a"], lambda: iter([make_statistics("a")])))
    store.blocks("a", "q4_0", True, lambda: np.ones((40, 18), np.uint8))
    for path in [*tmp_path.rglob("*.npz"), *tmp_path.rglob("*.npy")]:
        path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"\.npz is damaged: remove it"):
        store.statistics("a")
    with pytest.raises(InputError, match=r"\.npy is damaged: remove it"):
        store.blocks("a", "q4_0", True, lambda: np.ones((40, 18), np.uint8))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the folder"):
        Store(tmp_path / "file" / "key")


def checkpoint_of(**matrices: np.ndarray) -> Any:
    tensors = tuple(TensorSpec(name, name, values.shape, "q", 0) for name, values in matrices.items())
    return SimpleNamespace(tensors=tensors, read=matrices.__getitem__)


def test_the_key_stands_for_values_windows_and_seed() -> None:
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    changed = values.copy()
    changed[1, 2] = np.nextafter(changed[1, 2], np.float32(9))
    keys = {
        store_key(checkpoint_of(a=values), "w", 0),
        store_key(checkpoint_of(a=changed), "w", 0),
        store_key(checkpoint_of(b=values), "w", 0),
        store_key(checkpoint_of(a=values.reshape(4, 2)), "w", 0),
        store_key(checkpoint_of(a=values), "v", 0),
        store_key(checkpoint_of(a=values), "w", 1),
    }
    assert len(keys) == 6
    assert store_key(checkpoint_of(a=values.copy()), "w", 0) in keys


def test_the_users_folder_stays_and_a_temporary_one_goes(tmp_path: Path) -> None:
    with work_folder(tmp_path) as folder:
        assert folder == tmp_path
    assert tmp_path.exists()
    with work_folder(None) as folder:
        (folder / "file").write_text("x")
    assert not folder.exists()


KILLED_AFTER = """
import os, signal, sys
from pathlib import Path
import edgekit
from edgekit.quant.store import Store
left = int(sys.argv[4])
keep = Store.blocks
def blocks(self, name, format, refinement, make):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return keep(self, name, format, refinement, make)
Store.blocks = blocks
edgekit.quantize(sys.argv[1], Path(sys.argv[2]), edgekit.Target(formats=("q4_0",)), work=Path(sys.argv[3]),
                 report=False)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills by a POSIX signal")
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it rounds, and again later; the third time it ends with the bytes of a run that was left alone."""
    output, work = tmp_path / "m.gguf", tmp_path / "work"
    for calls in (5, 40):
        done = subprocess.run([sys.executable, "-c", KILLED_AFTER, str(SAMPLE), str(output), str(work), str(calls)])
        assert done.returncode == -signal.SIGKILL
        assert not output.exists()
    kept = sum(1 for _ in work.rglob("*.npy"))
    assert kept >= 5
    resumed = edgekit.quantize(SAMPLE, output, edgekit.Target(formats=("q4_0",)), work=work, report=False)
    alone = edgekit.quantize(SAMPLE, tmp_path / "b.gguf", edgekit.Target(formats=("q4_0",)), report=False)
    assert resumed.sha256 == alone.sha256
