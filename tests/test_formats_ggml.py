"""Encoding against ggml's own, through the libggml that llama-cpp-python carries: never a larger weighted error."""

from __future__ import annotations

import ctypes
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit.quant.formats import FORMATS, Format

SAMPLE = Path(__file__).parent / "assets" / "sample" / "model.safetensors"
BLOCK_FORMATS = tuple(format for format in FORMATS if format.unpack)


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    package = importlib.util.find_spec("llama_cpp")
    if package is None or package.origin is None:
        pytest.skip("llama-cpp-python is not installed: pip install 'edgekit[llama-cpp]'")
    folder = Path(package.origin).parent / "lib"
    names = [name for name in ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll") if (folder / name).exists()]
    assert names, f"{folder} holds no libggml-base"
    library = ctypes.CDLL(str(folder / names[0]))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    pointer, integers = ctypes.c_void_p, [ctypes.c_int64] * 3
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, *integers, pointer]
    return library


def ggml_encode(library: ctypes.CDLL, format: Format, rows: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
    rows = np.ascontiguousarray(rows)
    blocks = np.empty((rows.shape[0], format.bytes(1, rows.shape[1])), np.uint8)
    weights = None if importance is None else importance.ctypes.data
    library.ggml_quantize_init(format.ggml_type)
    written = library.ggml_quantize_chunk(
        format.ggml_type, rows.ctypes.data, blocks.ctypes.data, 0, rows.shape[0], rows.shape[1], weights
    )
    assert written == blocks.nbytes
    return blocks


def sample_matrices() -> list[np.ndarray]:
    """A few rows of each kind of matrix in the sample checkpoint, which is BF16."""
    data = SAMPLE.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    matrices = []
    for name, entry in sorted(header.items()):
        wanted = ".layers.3." in name or "embed_tokens" in name
        if not wanted or len(entry["shape"]) != 2:
            continue
        assert entry["dtype"] == "BF16"
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        halves = np.frombuffer(data[start:stop], "<u2").reshape(entry["shape"])
        matrices.append((halves[:96].astype(np.uint32) << 16).view(np.float32))
    return [matrix for matrix in matrices if matrix.shape[1] % 256 == 0]


def random_matrices() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    normal = generator.standard_normal((96, 1024)) * 0.02
    heavy = generator.standard_t(4, (96, 512)) * 0.02
    shifted = generator.standard_normal((96, 512)) * 0.02 + 0.01
    return [matrix.astype(np.float32) for matrix in (normal, heavy, shifted)]


@pytest.mark.parametrize("spread", [None, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("source", [random_matrices, sample_matrices])
@pytest.mark.parametrize("format", BLOCK_FORMATS, ids=lambda format: format.name)
def test_no_worse_than_ggml(
    ggml: ctypes.CDLL, format: Format, source: Callable[[], list[np.ndarray]], spread: float | None
) -> None:
    generator = np.random.default_rng(4)
    matrices = source()
    assert len(matrices) >= 3
    for rows in matrices:
        weights = (
            None if spread is None else np.exp(spread * generator.standard_normal(rows.shape[1])).astype(np.float32)
        )

        def error(blocks: np.ndarray, rows: np.ndarray = rows, weights: np.ndarray | None = weights) -> np.ndarray:
            left = format.decode(blocks).astype(np.float64) - rows
            return (left**2 * (1.0 if weights is None else weights)).sum(axis=1)

        ours, theirs = error(format.encode(rows, weights)), error(ggml_encode(ggml, format, rows, weights))
        assert ours.sum() <= 0.985 * theirs.sum()
        assert np.mean(ours > theirs) <= 0.08  # a row of few blocks may be lucky: neither search is exhaustive
        assert np.all(ours <= 1.1 * theirs)
