"""Statistics and rounded matrices on disk: whole or not there, and a killed run goes on to the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from models_random import random_checkpoint

import edgekit
from edgekit import InputError, calibrating
from edgekit.models.spec import TensorSpec
from edgekit.quant.plan import Candidate
from edgekit.quant.statistics import KroneckerTerm, MatrixStatistics, RowCorrelation
from edgekit.quant.store import Store, kept_windows, store_key, work_folder


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
    expected = [make_statistics("model/a.weight"), make_statistics("tied", terms=2)]
    store = Store(tmp_path / "key")
    for matrix in expected:
        assert not store.complete([other.name for other in expected])
        store.keep(matrix)
    store = Store(tmp_path / "key")
    assert store.complete([matrix.name for matrix in expected])
    for matrix in expected:
        assert_same(store.statistics(matrix.name), matrix)


def test_candidates_come_back_to_the_last_bit(tmp_path: Path) -> None:
    row = (Candidate("q4_0", 1000, 0.1 + 0.2, 1e-300), Candidate("f16", 4000, 0.0, 1 / 3))
    Store(tmp_path).keep_candidates("a", ("q4_0", "f16"), row)
    assert Store(tmp_path).candidates("a", ("f16", "q4_0")) == row
    assert Store(tmp_path).candidates("a", ("q4_0",)) is None
    assert Store(tmp_path).candidates("b", ("q4_0", "f16")) is None


def test_a_plan_is_measured_once(tmp_path: Path) -> None:
    made = []

    def make() -> np.ndarray:
        made.append(1)
        return np.full(5, len(made) / 3)

    plans = [
        ({"a": "q4_0", "b": "q8_0"}, "GPTQ"),
        ({"a": "q8_0", "b": "q4_0"}, "GPTQ"),
        ({"a": "q4_0", "b": "q8_0"}, "DESCENT"),
        ({"a": "q4_0"}, "GPTQ"),
    ]
    first = [Store(tmp_path).klds(*plan, make) for plan in plans]
    again = [Store(tmp_path).klds(dict(reversed(formats.items())), how, make) for formats, how in plans]
    assert len(made) == 4
    np.testing.assert_array_equal(first, again)


def test_blocks_are_made_once_per_matrix_format_and_method(tmp_path: Path) -> None:
    made = []

    def make() -> np.ndarray:
        made.append(1)
        return np.full((3, 18), len(made), np.uint8)

    store = Store(tmp_path)
    kinds = [("a", "q4_0", "GPTQ"), ("a", "q4_0", "NONE"), ("a", "q5_0", "GPTQ"), ("b", "q4_0", "GPTQ")]
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
        store.blocks("a", "q4_0", "GPTQ", fail)
    assert (store.blocks("a", "q4_0", "GPTQ", lambda: np.ones((1, 18), np.uint8)) == 1).all()


@pytest.mark.parametrize("keep", [0, 10, 100])
def test_a_damaged_file_is_named(keep: int, tmp_path: Path) -> None:
    store = Store(tmp_path)
    uses = {
        ".npz": lambda: store.statistics("a"),
        ".json": lambda: store.candidates("a", ("q4_0",)),
        "blocks/": lambda: store.blocks("a", "q4_0", "GPTQ", lambda: np.ones((40, 18), np.uint8)),
        "klds/": lambda: store.klds({"a": "q4_0"}, "GPTQ", lambda: np.ones(40)),
        "windows.npy": lambda: kept_windows(tmp_path, lambda: np.ones((2, 40), np.int64)),
    }
    store.keep(make_statistics("a"))
    store.keep_candidates("a", ("q4_0",), [Candidate("q4_0", 18 * 10**9, 0.123456789012345, 1e-17)] * 3)
    for use in uses.values():
        use()
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        path.write_bytes(path.read_bytes()[:keep])
    for name, use in uses.items():
        with pytest.raises(InputError, match=r" is damaged: remove it, and it will be made again$") as caught:
            use()
        assert name in str(caught.value).replace(os.sep, "/")


@pytest.mark.parametrize(
    "text", ["{}", "[1]", '[["q4_0", 1, "x", 0]]', '[["q9", 1, 0, 0]]', '[["q4_0", 1, NaN, 0]]', "[[]]"]
)
def test_a_row_that_is_no_row_is_named(text: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_candidates("a", ("q4_0",), [])
    (path,) = tmp_path.rglob("*.json")
    path.write_text(text)
    with pytest.raises(InputError, match=r"\.json is damaged"):
        store.candidates("a", ("q4_0",))


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


KILLED_AT = """
import os, signal, sys
import torch
from pathlib import Path
import edgekit
from edgekit.quant import store
left = int(sys.argv[4])
write = store.atomic_write
def atomic_write(path):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path)
store.atomic_write = atomic_write
torch.set_num_threads(int(sys.argv[5]))  # sums depend on it, and tests before this one may have set it
edgekit.quantize(sys.argv[1], Path(sys.argv[2]), edgekit.Target(bpw=6.0), work=Path(sys.argv[3]), report=False)
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, edgekit.Artifact]:
    """A small random checkpoint, and what is made of it without --work."""
    folder = tmp_path_factory.mktemp("alone")
    checkpoint = random_checkpoint(folder / "model", "gemma3", layers=2)
    return checkpoint, edgekit.quantize(checkpoint, folder / "m.gguf", edgekit.Target(bpw=6.0), report=False)


def made_alike(first: edgekit.Artifact, second: edgekit.Artifact) -> bool:
    return (first.sha256, first.plan, first.kld_measured) == (second.sha256, second.plan, second.kld_measured)


@pytest.mark.skipif(os.name != "posix", reason="kills by a POSIX signal")
def test_a_killed_run_goes_on_to_the_same_bytes(alone: tuple[Path, edgekit.Artifact], tmp_path: Path) -> None:
    """Killed as it collects statistics, makes the table, measures: at last it ends as a run that was left alone."""
    checkpoint, expected = alone
    output, work = tmp_path / "m.gguf", tmp_path / "work"
    for more, reached in ((6, "statistics"), (35, "blocks"), (45, "klds")):
        arguments = (checkpoint, output, work, more, torch.get_num_threads())
        done = subprocess.run([sys.executable, "-c", KILLED_AT, *map(str, arguments)], capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not output.exists() and not list(work.rglob("*.partial"))
        assert any(work.rglob(f"{reached}/*"))
    resumed = edgekit.quantize(checkpoint, output, edgekit.Target(bpw=6.0), work=work, report=False)
    assert made_alike(resumed, expected)


def test_another_budget_takes_what_is_known(
    alone: tuple[Path, edgekit.Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics, the table and the probes' KLs; the same budget again needs not even the model."""
    checkpoint, expected = alone
    work = tmp_path / "work"
    first = edgekit.quantize(checkpoint, tmp_path / "a.gguf", edgekit.Target(bpw=7.0), work=work, report=False)

    def again(*_arguments: object, **_options: object) -> None:
        raise AssertionError("this is known")

    for name in ("collect", "calibration_windows"):
        monkeypatch.setattr(calibrating, name, again)
    monkeypatch.setattr("edgekit.quant.sensitivity.evaluate_formats", again)
    measured = len(list(work.rglob("klds/*")))
    other = edgekit.quantize(checkpoint, tmp_path / "b.gguf", edgekit.Target(bpw=6.0), work=work, report=False)
    assert made_alike(other, expected)
    assert 0 < len(list(work.rglob("klds/*"))) - measured < 10  # the plan and its swaps, no probe
    monkeypatch.setattr(calibrating, "load_model", again)
    for target, before in ((7.0, first), (6.0, other)):
        made = edgekit.quantize(checkpoint, tmp_path / "c.gguf", edgekit.Target(bpw=target), work=work, report=False)
        assert made_alike(made, before)
