"""The ONNX session's own: its cache in place, its parts, and the folders that it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from models_random import VOCAB, random_checkpoint
from plain_files import write_plain, write_plain_onnx

from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.errors import InputError
from edgekit.runtimes import CacheTypes, load

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'edgekit[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'edgekit[onnx]'")

from edgekit.runtimes import onnx as runtime


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "gemma", "gemma3")


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain_onnx(tmp_path_factory.mktemp("onnx") / "model", "q8_0", checkpoint)


@pytest.fixture(scope="module")
def portable(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain_onnx(tmp_path_factory.mktemp("onnx") / "model", "q8_0", checkpoint, portable=True)


@pytest.fixture(params=["folder", "portable"])
def either(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def opened(folder: Path) -> runtime.OnnxSession:
    return runtime.load(folder, context=128, threads=1, float_activations=True)


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    return np.random.default_rng(0).integers(0, VOCAB, 100).tolist()


def test_all_is_torch(either: Path, checkpoint: Path, tokens: list[int], tmp_path: Path) -> None:
    reference = load(write_plain(tmp_path / "model.gguf", "q8_0", checkpoint), runtime="torch", threads=1)
    session = opened(either)
    expected = reference.score(tokens, 0)
    np.testing.assert_allclose(session.score(tokens, 0), expected, atol=1e-4)
    session.reset()
    np.testing.assert_allclose(session.prefill(tokens[:68]), expected[67], atol=1e-4)
    for position in range(68, 100):
        np.testing.assert_allclose(session.decode(tokens[position]), expected[position], atol=1e-4)


@pytest.mark.parametrize("at_once", [1, 7, 30, 99, 100])
@pytest.mark.parametrize("first", [0, 1, 69, 70, 71, 99])
def test_parts_give_the_same(
    either: Path, tokens: list[int], at_once: int, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(either)
    whole = session.score(tokens, 0)
    monkeypatch.setattr(runtime, "_AT_ONCE", at_once)
    np.testing.assert_allclose(session.score(tokens, first), whole[first:], atol=1e-4)


def test_the_cache_is_the_sessions_own_memory(folder: Path, tokens: list[int]) -> None:
    """Keys and values of every position are found where the session allocated them: they were written in place."""
    session = opened(folder)
    session.prefill(tokens[:20])
    session.decode(tokens[20])
    for name in session._cache:
        values = session._bound[name].numpy()
        assert values.shape == (1, 2, 128, 16)
        assert np.abs(values[:, :, :21]).min(axis=(0, 1, 3)).min() > 0 and not values[:, :, 21:].any()


def test_a_cache_that_grows(portable: Path, tokens: list[int]) -> None:
    session = opened(portable)
    session.prefill(tokens[:20])
    session.decode(tokens[20])
    assert {tuple(session._bound[name].shape()) for name in session._cache} == {(1, 2, 21, 16)}
    assert session.stats().cache_bytes == 3 * 2 * 2 * 21 * 16 * 4
    session.reset()
    assert session.stats().cache_bytes == 0


def test_float_activations_are_another_result(portable: Path, tokens: list[int]) -> None:
    """Without being asked, ONNX Runtime rounds a portable graph's activations."""
    rounded = load(portable, runtime="onnx", context=128, threads=1).prefill(tokens)
    exact = opened(portable).prefill(tokens)
    assert 1e-3 < np.abs(rounded - exact).max() < 1


def test_stats(folder: Path) -> None:
    stats = load(folder, runtime="onnx", context=100, threads=1).stats()
    assert stats.model_bytes == (folder / "model.onnx").stat().st_size
    assert stats.cache_bytes == 3 * 2 * 2 * 100 * 16 * 4  # layers, keys and values, heads, positions, size, float32


def test_refusals(folder: Path, tmp_path: Path) -> None:
    def refuse(path: Path, message: str, **options: object) -> None:
        with pytest.raises(InputError, match=message):
            load(path, runtime="onnx", **options)  # type: ignore[arg-type]

    refuse(tmp_path, "is not a folder with model.onnx")
    refuse(tmp_path / "none", "is not a folder with model.onnx")
    refuse(folder, "context of 256 tokens: 257 is out of range", context=257)
    refuse(folder, "--threads 0", threads=0)
    refuse(folder, "leave --cache-type out", cache=CacheTypes("f16", "f16"))
    with pytest.raises(InputError, match=r"is an ONNX folder: choose --runtime onnx"):
        load(folder, runtime="native")
    with pytest.raises(InputError, match=r"model\.onnx is a graph, not a GGUF file: give the folder"):
        load(folder / "model.onnx")
    with pytest.raises(InputError, match=r"is an ONNX folder: give the checkpoint that it was exported from"):
        open_checkpoint(folder)


@pytest.mark.parametrize("size", [0, 100, 10_000, -5])
def test_a_damaged_graph_is_refused(folder: Path, size: int, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:size])
    with pytest.raises(InputError, match=r"model\.onnx"):
        load(copy, runtime="onnx")


@pytest.mark.parametrize("size", [None, 0, -5])
def test_damaged_weights_beside_the_graph_are_refused(
    checkpoint: Path, size: int | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_plain_onnx(tmp_path / "onnx", "q8_0", checkpoint, external_data=True)
    data = folder / "model.onnx.data"
    if size is None:
        data.unlink()
    else:
        data.write_bytes(data.read_bytes()[:size])
    with pytest.raises(InputError, match=r"refuses .*model\.onnx: (?!\d|.*(FAIL|ONNXRuntimeError))"):
        load(folder, runtime="onnx")
    assert capfd.readouterr().err == ""  # the sentence is all that is said


@pytest.mark.parametrize("foreign", ["metadata", "context", "input"])
def test_a_foreign_graph_is_refused(folder: Path, foreign: str, tmp_path: Path) -> None:
    import onnx

    (tmp_path / "copy").mkdir()
    model = onnx.load(folder / "model.onnx")
    if foreign == "metadata":
        del model.metadata_props[:]
    elif foreign == "context":
        next(fact for fact in model.metadata_props if fact.key == "edgekit.context").value = "0"
    else:  # it keeps logits of every position
        graph = model.graph
        graph.input.remove(next(value for value in graph.input if value.name == "logits_to_keep"))
    onnx.save(model, tmp_path / "copy" / "model.onnx")
    with pytest.raises(InputError, match="is no graph of edgekit's: export one"):
        load(tmp_path / "copy", runtime="onnx")
