"""Rounding in row chunks, weighted by the importance, against the encoder called once."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.models.errors import InputError
from edgekit.quant import rounding
from edgekit.quant.formats import FORMATS, Format, format_of
from edgekit.quant.rounding import damped, round_tensor, round_to_nearest
from edgekit.quant.statistics import Importance

ROWS, COLUMNS = 37, 512


def values_and_importance(terms: int) -> tuple[np.ndarray, Importance]:
    generator = np.random.default_rng(terms)
    values = (generator.standard_normal((ROWS, COLUMNS)) * generator.lognormal(0, 1, (ROWS, 1))).astype(np.float32)
    rows = tuple(generator.lognormal(0, 3, ROWS).astype(np.float32) for _ in range(terms))
    columns = tuple((1e-7 * generator.lognormal(0, 1.5, COLUMNS)).astype(np.float32) for _ in range(terms))
    return values, Importance(rows, columns)


def element_weights(importance: Importance) -> np.ndarray:
    """(N, K) float64: the definition, densely."""
    pairs = zip(importance.rows, importance.columns, strict=True)
    return sum(np.outer(rows.astype(np.float64), columns.astype(np.float64)) for rows, columns in pairs)


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
@pytest.mark.parametrize("terms", [1, 2])
def test_chunks_equal_the_whole(format: Format, terms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row gets its own weights wherever chunks begin: a chunk's offset into the importance must not be lost."""
    values, importance = values_and_importance(terms)
    monkeypatch.setattr(rounding, "CHUNK_WEIGHTS", 5 * COLUMNS)
    blocks = round_to_nearest(values, format, importance)
    assert blocks.shape == (ROWS, format.bytes(1, COLUMNS)) and blocks.dtype == np.uint8
    whole = importance.weights(0, ROWS)
    np.testing.assert_allclose(damped(whole) * np.ones((ROWS, 1)), damped(element_weights(importance)), rtol=1e-5)
    np.testing.assert_array_equal(blocks, format.encode(values, damped(whole)))


@pytest.mark.parametrize("name", ["q4_0", "iq4_nl", "q4_k", "q5_1"])
@pytest.mark.parametrize("terms", [1, 2])
def test_importance_lowers_the_error_that_it_weighs(name: str, terms: int) -> None:
    values, importance = values_and_importance(terms)
    weights = element_weights(importance)
    format = format_of(name)

    def error(blocks: np.ndarray) -> float:
        return float(np.sum(weights * (format.decode(blocks).astype(np.float64) - values) ** 2))

    assert error(round_to_nearest(values, format, importance)) < 0.97 * error(round_to_nearest(values, format, None))


def test_no_importance_is_even_importance() -> None:
    values, _ = values_and_importance(1)
    even = Importance((np.ones(ROWS, np.float32),), (np.full(COLUMNS, 3e-9, np.float32),))
    format = format_of("q4_0")
    weighted, plain = (format.decode(round_to_nearest(values, format, weights)) for weights in (even, None))
    np.testing.assert_allclose(np.square(weighted - values).sum(), np.square(plain - values).sum(), rtol=0.01)


def test_zero_and_tiny_importance_still_round() -> None:
    """Rows of tokens that calibration never saw have weights of 0 or near the end of float32."""
    values, importance = values_and_importance(2)
    rows = tuple(row.copy() for row in importance.rows)
    for row in rows:
        row[3], row[4] = 0.0, 1e-37
    for name in ("q4_0", "q4_k", "q5_1", "q6_k"):
        format = format_of(name)
        decoded = format.decode(round_to_nearest(values, format, Importance(rows, importance.columns)))
        share = np.square(decoded - values).sum(axis=1) / np.square(values).sum(axis=1)
        assert np.isfinite(decoded).all()
        assert share[[3, 4]].max() < 0.03


def test_dead_columns_keep_their_order_of_magnitude() -> None:
    values, importance = values_and_importance(1)
    columns = importance.columns[0].copy()
    columns[64:96] = 0  # a whole block that calibration never excited
    format = format_of("q4_0")
    decoded = format.decode(round_to_nearest(values, format, Importance(importance.rows, (columns,))))
    block = values[:, 64:96]
    assert np.square(decoded[:, 64:96] - block).sum() < 0.02 * np.square(block).sum()


def test_damping() -> None:
    weights = damped(np.array([[1.0, 3.0], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(weights, [[0.51, 1.51], [1.01, 1.01]], rtol=1e-6)


def test_a_row_that_is_no_whole_number_of_blocks() -> None:
    with pytest.raises(InputError, match="q4_k cannot carry rows of 288"):
        round_tensor(np.zeros((2, 288), np.float32), format_of("q4_k"))


def test_float16_overflow_is_refused() -> None:
    values = np.zeros((2, 32), np.float32)
    values[1, 3] = 65504.0
    assert np.array_equal(format_of("f16").decode(round_tensor(values, format_of("f16"))), values)
    values[1, 3] = -65600.0
    with pytest.raises(InputError, match="choose bf16"):
        round_tensor(values, format_of("f16"))
