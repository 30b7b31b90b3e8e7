"""Error-compensated rounding and coordinate descent in C against the dense float64 versions of rounding_oracle.py."""

from __future__ import annotations

import numpy as np
import pytest
from rounding_oracle import Descent, compensated, parts_of

from edgekit import _native
from edgekit.quant.formats import FORMATS, Format, format_of

BLOCK_FORMATS = tuple(format for format in FORMATS if format.unpack)
every_block_format = pytest.mark.parametrize("format", BLOCK_FORMATS, ids=lambda format: format.name)


def columns_of(format: Format) -> tuple[int, ...]:
    return (32, 96, 160) if format.block == 32 else (256,)


def random_values(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(5, (rows, columns)) * 0.05).astype(np.float32)


def random_hessian(columns: int, seed: int = 0, samples: int | None = None) -> np.ndarray:
    """(K, K) float32: second moments of inputs that depend on one another, some much larger than others."""
    generator = np.random.default_rng(seed + 1000)
    mixing = np.eye(columns) + generator.standard_normal((columns, columns)) / np.sqrt(columns)
    inputs = generator.standard_normal((samples or 2 * columns, columns)) @ mixing
    inputs *= np.exp(generator.standard_normal(columns))
    return (inputs.T @ inputs / len(inputs)).astype(np.float32)


def order_and_factor(hessian: np.ndarray, damping: float = 0.01) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Descending diagonal; the upper Cholesky factor of the damped matrix's inverse; that matrix, float64."""
    diagonal = np.diag(hessian).astype(np.float64)
    damped = hessian.astype(np.float64) + damping * max(diagonal.mean(), 1e-30) * np.eye(len(hessian))
    order = np.argsort(-diagonal, kind="stable").astype(np.int32)
    factor = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    return order, np.ascontiguousarray(factor, dtype=np.float32), damped


def errors_of(format: Format, values: np.ndarray, blocks: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """e^T H e (N,), float64."""
    e = format.decode(blocks).astype(np.float64) - values
    return np.einsum("nk,kj,nj->n", e, hessian.astype(np.float64), e)


def plain(format: Format, values: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    return format.encode(values, np.ascontiguousarray(np.diag(hessian)))


# --- the parts of blocks ---


@every_block_format
def test_blocks_come_back_byte_for_byte(format: Format) -> None:
    """Taken apart and put together: no sweep changes nothing."""
    values = np.concatenate([random_values(40, 512) * scale for scale in (1, 1e-4, 1e-7, 1e3, 1e30, 0)])
    blocks = format.encode(values, None)
    again, _ = _native.descend(format.name, values, blocks, np.eye(512, dtype=np.float32), 0)
    np.testing.assert_array_equal(again, blocks)


@every_block_format
def test_random_scales_and_codes_come_back(format: Format) -> None:
    """All bits of codes and of group scales are kept, with finite fp16 fields."""
    generator = np.random.default_rng(1)
    blocks = generator.integers(0, 256, (24, 512 // format.block, format.block_bytes), dtype=np.uint8)
    halves = {"q4_1": (0, 2), "q5_1": (0, 2), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,)}.get(format.name, (0,))
    for at in halves:
        blocks[:, :, at + 1] &= 0xBB  # exponents below the largest
    blocks = blocks.reshape(24, -1)
    values = np.zeros((24, 512), np.float32)
    again, _ = _native.descend(format.name, values, blocks, np.zeros((512, 512), np.float32), 3)
    np.testing.assert_array_equal(again, blocks)


# --- error-compensated rounding ---


@every_block_format
def test_compensation_is_the_dense_one(format: Format) -> None:
    for columns in columns_of(format):
        values, hessian = random_values(21, columns), random_hessian(columns)
        order, factor, damped = order_and_factor(hessian)
        blocks = plain(format, values, hessian)
        result = _native.compensate(format.name, values, blocks, factor, order)
        expected = compensated(format, values.astype(np.float64), blocks, damped, order)
        before, after = parts_of(format, blocks), parts_of(format, result)
        np.testing.assert_array_equal(after.level, expected)
        for field in ("d", "dmin", "scale", "minimum"):
            np.testing.assert_array_equal(getattr(after, field), getattr(before, field), err_msg=field)


@every_block_format
def test_without_correlation_compensation_is_rounding_to_nearest(format: Format) -> None:
    values, identity = random_values(5, 512), np.eye(512, dtype=np.float32)
    blocks = format.encode(values, None)
    order = np.random.default_rng(0).permutation(512).astype(np.int32)
    np.testing.assert_array_equal(_native.compensate(format.name, values, blocks, identity, order), blocks)


@every_block_format
def test_compensation_lowers_the_error(format: Format) -> None:
    values, hessian = random_values(40, 512), random_hessian(512)
    order, factor, _ = order_and_factor(hessian)
    blocks = plain(format, values, hessian)
    result = _native.compensate(format.name, values, blocks, factor, order)
    assert errors_of(format, values, result, hessian).sum() < 0.6 * errors_of(format, values, blocks, hessian).sum()


# --- descent ---


@every_block_format
def test_descent_is_the_dense_one(format: Format) -> None:
    """The same steps: all that the blocks store is equal, and the dense trace falls with every step.

    Where two values are as good to the seventh digit, float32 may take the other one; it does not for these.
    """
    rows, columns = 5, 96 if format.block == 32 else 512
    values, hessian = random_values(rows, columns), random_hessian(columns)
    order, factor, _ = order_and_factor(hessian)
    start = plain(format, values, hessian)
    for blocks in (start, _native.compensate(format.name, values, start, factor, order)):
        result, errors = _native.descend(format.name, values, blocks, hessian, 2)
        after, expected = parts_of(format, result), parts_of(format, blocks)
        for row in range(rows):
            descent = Descent(format, values[row].astype(np.float64), expected, row, hessian.astype(np.float64))
            for _ in range(2):
                descent.sweep()
            assert len(descent.trace) > 5 and np.all(np.diff(descent.trace) < 0)
            np.testing.assert_allclose(errors[row], descent.trace[-1], rtol=1e-4)
        for field in ("d", "dmin", "scale", "minimum", "level"):
            np.testing.assert_array_equal(getattr(after, field), getattr(expected, field), err_msg=field)


@every_block_format
def test_every_sweep_lowers_the_error_until_nothing_changes(format: Format) -> None:
    values, hessian = random_values(30, 256), random_hessian(256)
    last = plain(format, values, hessian)
    errors = errors_of(format, values, last, hessian)
    for sweeps in (1, 2, 3, 40):
        blocks, now = _native.descend(format.name, values, plain(format, values, hessian), hessian, sweeps)
        np.testing.assert_allclose(now, errors_of(format, values, blocks, hessian), rtol=1e-4)
        assert np.all(now <= errors * (1 + 1e-6)) and now.sum() < errors.sum()
        last, errors = blocks, now
    again, _ = _native.descend(format.name, values, last, hessian, 1)
    np.testing.assert_array_equal(again, last)


@every_block_format
def test_descent_after_compensation_beats_either(format: Format) -> None:
    values, hessian = random_values(40, 512), random_hessian(512)
    order, factor, _ = order_and_factor(hessian)
    blocks = plain(format, values, hessian)
    better = _native.compensate(format.name, values, blocks, factor, order)
    _, alone = _native.descend(format.name, values, blocks, hessian, 3)
    _, both = _native.descend(format.name, values, better, hessian, 3)
    assert both.sum() < 0.95 * alone.sum()
    assert both.sum() < 0.9 * errors_of(format, values, better, hessian).sum()


# --- both ---


def odd_cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> values (20, 256) and a Hessian."""
    values, hessian = random_values(20, 256), random_hessian(256)
    huge, silent = values.copy(), hessian.copy()
    huge[:, 7], huge[3, 100] = 6e4, 1e30
    silent[:, 40:90], silent[40:90, :] = 0, 0
    return {
        "zeros": (np.zeros_like(values), hessian),
        "huge": (huge, hessian),
        "silent columns": (values, silent),
        "rank 3": (values, random_hessian(256, samples=3)),
        "no importance": (values, np.zeros_like(hessian)),
        "tiny units": (values, hessian * np.float32(1e-25)),
        "large units": (values, hessian * np.float32(1e25)),
        "tiny weights": (values * np.float32(1e-7), hessian),
    }


@every_block_format
@pytest.mark.parametrize("name", odd_cases())
def test_odd_input_never_gets_worse(format: Format, name: str) -> None:
    values, hessian = odd_cases()[name]
    order, factor, _ = order_and_factor(hessian)
    blocks = plain(format, values, hessian)
    for start in (blocks, _native.compensate(format.name, values, blocks, factor, order)):
        assert np.isfinite(format.decode(start)).all()
        result, errors = _native.descend(format.name, values, start, hessian, 4)
        assert np.isfinite(format.decode(result)).all()
        before, after = errors_of(format, values, start, hessian), errors_of(format, values, result, hessian)
        assert np.all(after <= before * (1 + 1e-5))
        sane = np.abs(values).max(axis=1) < 1e10  # beyond, float32 has no squares
        e = np.abs(format.decode(result)[sane].astype(np.float64) - values[sane])
        terms = np.einsum("nk,kj,nj->n", e, np.abs(hessian).astype(np.float64), e)  # that may cancel
        assert np.all(np.abs(errors[sane] - after[sane]) <= 1e-6 * terms)


@every_block_format
def test_units_do_not_matter(format: Format) -> None:
    values, hessian = random_values(20, 256), random_hessian(256)
    blocks = plain(format, values, hessian)
    result, errors = _native.descend(format.name, values, blocks, hessian, 2)
    for unit in (2.0**-90, 2.0**60):
        scaled, scaled_errors = _native.descend(format.name, values, blocks, hessian * np.float32(unit), 2)
        np.testing.assert_array_equal(scaled, result)
        np.testing.assert_array_equal(scaled_errors, errors * unit)


@every_block_format
def test_threads_levels_and_neighbours_do_not_matter(format: Format) -> None:
    values, hessian = random_values(150, 256), random_hessian(256)
    order, factor, _ = order_and_factor(hessian)
    blocks = plain(format, values, hessian)

    def both(rows: slice, threads: int, level: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        some = np.ascontiguousarray(values[rows])
        first = _native.compensate(format.name, some, blocks[rows], factor, order, threads, level)
        return (first, *_native.descend(format.name, some, first, hessian, 2, threads, level))

    whole = both(slice(None), 1, -1)
    variants = [(slice(None), 3, -1), (slice(5, 28), 1, -1)]
    variants += [(slice(None), 1, level) for level in range(_native.isa_levels())]
    for rows, threads, level in variants:
        for result, expected in zip(both(rows, threads, level), whole, strict=True):
            np.testing.assert_array_equal(result, expected[rows])


def test_below_the_diagonal_nothing_is_read() -> None:
    values, hessian = random_values(4, 96), random_hessian(96)
    order, factor, _ = order_and_factor(hessian)
    blocks = plain(format_of("q5_1"), values, hessian)
    below = np.tril(np.full((96, 96), np.nan, np.float32), -1)
    np.testing.assert_array_equal(
        _native.compensate("q5_1", values, blocks, factor + below, order),
        _native.compensate("q5_1", values, blocks, factor, order),
    )
    for result, expected in zip(
        _native.descend("q5_1", values, blocks, hessian + below, 2),
        _native.descend("q5_1", values, blocks, hessian, 2),
        strict=True,
    ):
        np.testing.assert_array_equal(result, expected)


def test_no_rows() -> None:
    eye, order = np.eye(64, dtype=np.float32), np.arange(64, dtype=np.int32)
    values, blocks = np.zeros((0, 64), np.float32), np.zeros((0, 36), np.uint8)
    assert _native.compensate("q4_0", values, blocks, eye, order).shape == (0, 36)
    result, errors = _native.descend("q4_0", values, blocks, eye, 1)
    assert result.shape == (0, 36) and errors.shape == (0,)


SIZED = {
    "values": np.zeros((3, 64), np.float32),
    "blocks": np.zeros((3, 36), np.uint8),
    "square": np.eye(64, dtype=np.float32),
    "order": np.arange(64, dtype=np.int32),
}


@pytest.mark.parametrize(
    ("changed", "to", "sentence"),
    [
        ("values", np.zeros(64, np.float32), "values must be"),
        ("values", np.zeros((3, 65), np.float32), "blocks of 32"),
        ("values", np.zeros((3, 0), np.float32), "blocks of 32"),
        ("values", np.zeros((3, 96), np.float32), "do not fit"),
        ("values", np.zeros((4, 64), np.float32), "rows of values"),
        ("values", np.zeros((3, 64)), "float32"),
        ("values", np.zeros((64, 3), np.float32).T, "contiguous"),
        ("blocks", np.zeros((3, 35), np.uint8), "do not fit"),
        ("blocks", np.zeros(108, np.uint8), "do not fit"),
        ("blocks", np.zeros((3, 36), np.int8), "uint8"),
        ("square", np.eye(63, dtype=np.float32), "(K, K)"),
        ("square", np.zeros((64, 32), np.float32), "(K, K)"),
        ("square", np.zeros(64, np.float32), "(K, K)"),
        ("square", np.eye(64), "float32"),
        ("square", np.full((64, 64), np.nan, np.float32), "factor must|NaN"),
        ("square", np.full((64, 64), np.inf, np.float32), "factor must|infinity"),
        ("order", np.arange(63, dtype=np.int32), "order"),
        ("order", np.arange(1, 65, dtype=np.int32), "order"),
        ("order", np.arange(-1, 63, dtype=np.int32), "order"),
        ("order", np.zeros(64, np.int32), "order"),
        ("order", np.arange(64), "int32"),
    ],
)
def test_wrong_arguments(changed: str, to: np.ndarray, sentence: str) -> None:
    given = {**SIZED, changed: to}
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        _native.compensate("q4_0", given["values"], given["blocks"], given["square"], given["order"])
    if changed != "order":
        with pytest.raises(ValueError, match=sentence.replace("(", r"\(").replace(")", r"\)")):
            _native.descend("q4_0", given["values"], given["blocks"], given["square"], 1)


def test_other_wrong_arguments() -> None:
    values, blocks, square, order = SIZED.values()
    with pytest.raises(ValueError, match="no codes"):
        _native.compensate("f16", values, np.zeros((3, 128), np.uint8), square, order)
    with pytest.raises(ValueError, match="q9_9"):
        _native.descend("q9_9", values, blocks, square, 1)
    with pytest.raises(ValueError, match="threads"):
        _native.compensate("q4_0", values, blocks, square, order, 0)
    with pytest.raises(ValueError, match="sweeps"):
        _native.descend("q4_0", values, blocks, square, -1)
    with pytest.raises(ValueError, match="diagonal"):
        _native.compensate("q4_0", values, blocks, -square, order)
