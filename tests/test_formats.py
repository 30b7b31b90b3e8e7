"""Block formats: decoding against gguf, encoding against exhaustive searches in float64, and what odd input gets."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from edgekit import _native
from edgekit.models.errors import InputError
from edgekit.quant.formats import FORMATS, Codes, Format, format_of, formats_of_width

BLOCK_FORMATS = tuple(format for format in FORMATS if format.unpack)
FLOAT_FORMATS = tuple(format for format in FORMATS if not format.unpack)
every_format = pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
every_block_format = pytest.mark.parametrize("format", BLOCK_FORMATS, ids=lambda format: format.name)

# Byte offsets of the fp16 fields in a block.
HALVES = {
    "q8_0": (0,), "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "iq4_nl": (0,),
    "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "f16": (0,),
}  # fmt: skip


def gaussian(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.03).astype(np.float32)


def heavy_tailed(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(4, (rows, columns)) * 0.03).astype(np.float32)


def uneven(columns: int, seed: int = 0, spread: float = 1.0) -> np.ndarray:
    return np.exp(spread * np.random.default_rng(seed + 99).standard_normal(columns)).astype(np.float32)


def weighted_error(format: Format, rows: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
    """Per row, in float64."""
    left = format.decode(format.encode(rows, importance)).astype(np.float64) - rows
    return (left**2 * (1.0 if importance is None else importance.astype(np.float64))).sum(axis=1)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype == np.float32 and bool(np.array_equal(a.view(np.uint32), b.view(np.uint32)))


def dequantized(format: Format, blocks: np.ndarray) -> np.ndarray:
    if format.name == "f32":  # gguf hands F32 back as it is
        return blocks.view(np.float32)
    return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(format.ggml_type))


def assembled(codes: Codes) -> np.ndarray:
    """The values that a Codes stands for."""
    levels = codes.codes.astype(np.float32) if codes.levels is None else codes.levels[codes.codes]
    values = np.repeat(codes.scales, codes.group, axis=1) * levels
    return values if codes.minima is None else values - np.repeat(codes.minima, codes.group, axis=1)


# --- what a format is ---


@every_format
def test_format_has_all_its_parts(format: Format) -> None:
    rows = gaussian(1, 256)
    blocks = format.encode(rows, None)
    assert format.decode(blocks).shape == rows.shape
    missing = [] if format.unpack or format.width >= 16 else ["unpack"]
    assert not missing, f"{format.name} lacks {missing}"


@every_format
def test_facts_agree_with_gguf(format: Format) -> None:
    kind = gguf.GGMLQuantizationType[format.name.upper()]
    assert format.ggml_type == kind
    assert (format.block, format.block_bytes) == gguf.GGML_QUANT_SIZES[kind]
    assert format.name.upper() in gguf.LlamaFileType(format.file_type).name
    assert format.bits_per_weight >= format.width
    assert format.bytes(3, 512) == format.encode(gaussian(3, 512), None).nbytes
    assert format.carries(512) and format.carries(format.block) and (format.block == 1 or not format.carries(16))


def test_names_and_widths() -> None:
    assert format_of("Q4_K") is format_of("q4_k")
    assert [format.name for format in formats_of_width(4)] == ["q4_0", "iq4_nl", "q4_k", "q4_1"]
    assert len({format.name for format in FORMATS}) == len(FORMATS) == 12
    with pytest.raises(InputError, match=r"unknown format 'q3_k': choose from .*q4_0"):
        format_of("q3_k")
    with pytest.raises(InputError, match="choose from 4, 5, 6, 8, 16, 32"):
        formats_of_width(7)


# --- decoding ---


@every_format
def test_decodes_random_blocks_as_gguf(format: Format) -> None:
    generator = np.random.default_rng(1)
    blocks = generator.integers(0, 256, (7, 6, format.block_bytes), dtype=np.uint8)
    for offset in HALVES.get(format.name, ()):
        halves = generator.standard_normal((7, 6)) * 10.0 ** generator.uniform(-8, 4, (7, 6))  # subnormals among them
        blocks[:, :, offset : offset + 2] = halves.astype("<f2")[..., None].view(np.uint8)
    if format.name in ("f32", "bf16"):
        blocks[..., -1] &= 0xBF  # an exponent below 128: finite
    blocks = blocks.reshape(7, -1)
    assert same_bits(format.decode(blocks), dequantized(format, blocks))


@every_format
def test_decodes_encoded_rows_as_gguf(format: Format) -> None:
    blocks = format.encode(heavy_tailed(5, 768), uneven(768))
    assert same_bits(format.decode(blocks), dequantized(format, blocks))


@every_block_format
def test_unpacked_parts_give_the_decoded_values(format: Format) -> None:
    """To the bit: decoding is the same two float32 operations."""
    blocks = format.encode(gaussian(4, 512), None)
    assert format.unpack is not None
    parts = format.unpack(blocks)
    assert parts.codes.shape == (4, 512) and parts.codes.dtype in (np.int8, np.uint8)
    assert parts.scales.shape == (4, 512 // parts.group)
    assert parts.minima is None or parts.minima.shape == parts.scales.shape
    assert parts.levels is None or parts.levels.shape == (16,)
    assert same_bits(assembled(parts), format.decode(blocks))
    bits = {"q8_0": 8, "q6_k": 6}.get(format.name, format.width)
    assert len(np.unique(parts.codes)) > 0.8 * 2**bits  # the whole range is in use


# --- encoding: float formats ---


def awkward_floats() -> np.ndarray:
    generator = np.random.default_rng(2)
    bits = generator.integers(0, 2**32, 4096, dtype=np.uint32)
    values = bits.view(np.float32)[np.isfinite(bits.view(np.float32))]
    halves = np.arange(0, 0x7C00, 7, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[:-1] + halves[1:]) / 2
    edges = np.float32([0, -0.0, 65504, 65519, 65520, -65520, 1e30, 2**-24, 2**-25, 2**-25 * 1.001, 1e-45])
    return np.concatenate([values, halves, ties, -ties, edges])[None, :]


def test_f32_is_exact() -> None:
    rows = awkward_floats()
    assert same_bits(format_of("f32").decode(format_of("f32").encode(rows, None)), rows)


def test_f16_rounds_to_nearest_even() -> None:
    rows = awkward_floats()
    with np.errstate(over="ignore"):
        expected = rows.astype(np.float16)
    assert np.array_equal(format_of("f16").encode(rows, None).view(np.uint16), expected.view(np.uint16))


def test_bf16_rounds_to_nearest_even() -> None:
    rows = awkward_floats()
    expected = gguf.quants.quantize(rows, gguf.GGMLQuantizationType.BF16)
    assert np.array_equal(format_of("bf16").encode(rows, None), expected)


# --- encoding: the least weighted error ---


def all_scales(rows: np.ndarray, weights: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Per block of 32, the least weighted error over every fp16 scale that could be best, either sign; float64."""
    middles = (levels[1:] + levels[:-1]) / 2
    least = []
    for x, w in zip(rows.reshape(-1, 32).astype(np.float64), weights.reshape(-1, 32).astype(np.float64), strict=True):
        reach = np.abs(x).max() / np.abs(levels).max()
        low, high = np.float16([reach / 3.5, reach * 1.5]).view(np.uint16)
        scales = np.arange(low, high + 1, dtype=np.uint16).view(np.float16).astype(np.float64)
        scales = np.concatenate([scales, -scales])[:, None]
        left = x - scales * levels[np.searchsorted(middles, x / scales)]
        least.append((w * left**2).sum(axis=1).min())
    return np.array(least)


@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("q4_0", np.arange(-8, 8.0)),
        ("q5_0", np.arange(-16, 16.0)),
        ("q8_0", np.arange(-127, 128.0)),
        ("iq4_nl", None),
    ],
)
def test_scale_is_almost_the_best_of_all(name: str, levels: np.ndarray | None, spread: float) -> None:
    format = format_of(name)
    if levels is None:
        levels = _native.levels(name)
        assert levels is not None
    rows, importance = heavy_tailed(8, 1024, seed=5), uneven(1024, spread=spread)
    best = all_scales(rows, np.broadcast_to(importance, rows.shape), levels.astype(np.float64))
    left = format.decode(format.encode(rows, importance)).astype(np.float64) - rows
    found = (importance * left**2).reshape(-1, 32).sum(axis=1)
    assert found.sum() <= (1.01 if spread < 2 else 1.02) * best.sum()
    assert np.all(found >= best * (1 - 1e-6))  # else the oracle is none


def dense_affine(x: np.ndarray, w: np.ndarray, top: int, nonnegative: bool) -> float:
    """The least weighted error of d * q - m over real d and m (m >= 0 where asked): many ends, each refitted."""
    low = min(x.min(), 0.0) if nonnegative else x.min()
    width = x.max() - low
    a, b = (grid.ravel() for grid in np.meshgrid(np.linspace(-0.1, 0.4, 60), np.linspace(-0.1, 0.4, 60)))
    d, m = (width * (1 - a - b) / top)[:, None], (-(low + a * width))[:, None]
    least = np.inf
    for _ in range(4):
        if nonnegative:
            m = np.maximum(m, 0)
        q = np.clip(np.rint((x + m) / d), 0, top)
        least = min(least, (w * (x - d * q + m) ** 2).sum(axis=1).min())
        total, sq, sx = w.sum(), (w * q).sum(axis=1), (w * x).sum()
        var = (w * q * q).sum(axis=1) - sq**2 / total
        d = np.maximum(((w * x * q).sum(axis=1) - sx * sq / total) / np.maximum(var, 1e-30), 1e-9)[:, None]
        m = -((sx - d[:, 0] * sq) / total)[:, None]
    return float(least)


@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize(
    # The K formats store scales and minima in 6 bits, which real ones need not keep to: hence more slack.
    ("name", "top", "nonnegative", "slack"),
    [("q4_1", 15, False, 1.015), ("q5_1", 31, False, 1.025), ("q4_k", 15, True, 1.05), ("q5_k", 31, True, 1.12)],
)
def test_affine_fit_is_almost_the_best_of_all(
    name: str, top: int, nonnegative: bool, slack: float, spread: float
) -> None:
    rows, importance = gaussian(4, 512, seed=6), uneven(512, spread=spread)
    weights = np.broadcast_to(importance, rows.shape).reshape(-1, 32).astype(np.float64)
    groups = rows.reshape(-1, 32).astype(np.float64)
    best = sum(dense_affine(x, w, top, nonnegative) for x, w in zip(groups, weights, strict=True))
    assert weighted_error(format_of(name), rows, importance).sum() <= slack * best


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_q6_k_scales_are_almost_the_best_of_all(spread: float) -> None:
    """Against real scales for each group of 16, which int8 scales need not keep to."""
    rows, importance = gaussian(4, 512, seed=7), uneven(512, spread=spread)
    best = 0.0
    weights = np.broadcast_to(importance, rows.shape).reshape(-1, 16).astype(np.float64)
    for x, w in zip(rows.reshape(-1, 16).astype(np.float64), weights, strict=True):
        scales = np.abs(x).max() / np.linspace(22, 90, 3000)
        scales = np.concatenate([scales, -scales])[:, None]
        left = x - scales * np.clip(np.rint(x / scales), -32, 31)
        best += (w * left**2).sum(axis=1).min()
    assert weighted_error(format_of("q6_k"), rows, importance).sum() <= 1.05 * best


@pytest.mark.parametrize("name", ["q4_0", "q5_0", "q8_0", "iq4_nl"])
def test_what_a_format_holds_comes_back(name: str) -> None:
    format = format_of(name)
    rows = format.decode(format.encode(heavy_tailed(8, 512), None))
    assert same_bits(format.decode(format.encode(rows, uneven(512))), rows)


@every_block_format
def test_importance_lowers_the_error_that_it_weighs(format: Format) -> None:
    rows, importance = heavy_tailed(16, 512), uneven(512, spread=2.0)
    plain = ((format.decode(format.encode(rows, None)) - rows) ** 2 * importance).sum()
    assert weighted_error(format, rows, importance).sum() < 0.9 * plain


def test_more_bits_less_error() -> None:
    rows, importance = gaussian(16, 1024), uneven(1024)
    error = {format.name: weighted_error(format, rows, importance).sum() for format in FORMATS}
    for less, more in [("q4_0", "q4_1"), ("q4_0", "iq4_nl"), ("q4_0", "q4_k"), ("q4_1", "q5_0"), ("q4_k", "q5_k"),
                       ("q5_0", "q5_1"), ("q5_0", "q5_k"), ("q5_1", "q6_k"), ("q6_k", "q8_0"), ("q8_0", "bf16"),
                       ("bf16", "f16"), ("f16", "f32")]:  # fmt: skip
        assert error[more] < error[less], (less, more)
    assert error["f32"] == 0


@every_block_format
def test_order_is_kept_within_a_group(format: Format) -> None:
    rows = np.sort(gaussian(8, 512).reshape(8, -1, 16), axis=2).reshape(8, 512)
    decoded = format.decode(format.encode(rows, None)).reshape(8, -1, 16)
    assert np.all(np.diff(decoded, axis=2) >= 0)


@every_block_format
def test_powers_of_two_change_nothing_but_the_scale(format: Format) -> None:
    rows, importance = gaussian(4, 512) * 64, uneven(512)  # large enough that no scale is a subnormal fp16
    decoded = format.decode(format.encode(rows, importance))
    assert same_bits(format.decode(format.encode(rows * 64, importance * 2.0**-60)), decoded * 64)


# --- encoding: odd input ---


def is_within(format: Format, rows: np.ndarray, share: float) -> bool:
    decoded = format.decode(format.encode(rows, None))
    return bool(np.isfinite(decoded).all() and np.abs(decoded - rows).max() <= share * np.abs(rows).max())


@every_format
def test_zeros_stay_zeros(format: Format) -> None:
    assert not format.decode(format.encode(np.zeros((3, 512), np.float32), uneven(512))).any()


@every_format
@pytest.mark.parametrize("value", [0.37, -0.37, 1e-3, 6e4])
def test_constants_stay_about_constant(format: Format, value: float) -> None:
    assert is_within(format, np.full((2, 512), value, np.float32), 0.005)


@every_format
@pytest.mark.parametrize("size", [1e-5, 1e-4, 1.0, 1e4])
def test_sizes_that_scales_reach(format: Format, size: float) -> None:
    assert is_within(format, np.clip(gaussian(4, 512) / 0.03, -3, 3) * np.float32(size), 0.15)


@every_block_format
@pytest.mark.parametrize("size", [1e-45, 1e-30, 1e-8, 1e-6, 1e6, 1e9, 1e30, 3e38])
def test_sizes_beyond_fp16_saturate(format: Format, size: float) -> None:
    rows = np.clip(gaussian(4, 512) / 0.03, -1, 1) * np.float32(size)
    for importance in (None, uneven(512)):
        decoded = format.decode(format.encode(rows, importance)).astype(np.float64)
        assert np.isfinite(decoded).all()
        assert size < 1e6 or np.abs(decoded).max() >= 5e5
        weights = 1.0 if importance is None else importance.astype(np.float64)
        # better than no values at all, as far as float32 can tell
        assert (weights * (decoded / size - rows / size) ** 2).sum() <= (weights * (rows / size) ** 2).sum() * (
            1 + 1e-6
        )


@every_block_format
@pytest.mark.parametrize("kind", ["zero", "half zero", "one", "negative", "nan", "infinite", "huge", "tiny", "wild"])
def test_odd_importance_gives_finite_close_values(format: Format, kind: str) -> None:
    generator = np.random.default_rng(3)
    importance = generator.uniform(0.5, 1, 512).astype(np.float32)
    match kind:
        case "zero":
            importance[:] = 0
        case "half zero":
            importance[generator.random(512) < 0.5] = 0
        case "one":
            importance[1:] = 0
        case "negative":
            importance *= -1
        case "nan":
            importance[::7] = np.nan
        case "infinite":
            importance[5] = np.inf
        case "huge":
            importance *= np.float32(3e38)
        case "tiny":
            importance *= np.float32(1e-44)
        case "wild":
            importance = np.exp(8 * generator.standard_normal(512)).astype(np.float32)
    rows = gaussian(4, 512)
    decoded = format.decode(format.encode(rows, importance))
    assert np.isfinite(decoded).all()
    assert np.abs(decoded - rows).max() < 2 * np.abs(rows).max()
    if kind in ("zero", "negative"):
        assert np.array_equal(format.encode(rows, importance), format.encode(rows, None))


@every_block_format
def test_weights_without_importance_do_not_cost_the_others(format: Format) -> None:
    rows, importance = gaussian(4, 512), np.ones(512, np.float32)
    alone = weighted_error(format, rows, importance).sum()
    rows[:, ::32] = 50.0
    importance[::32] = 0
    assert weighted_error(format, rows, importance).sum() < 1.2 * alone


@every_block_format
def test_not_finite_rows_do_no_harm_to_others(format: Format) -> None:
    rows = gaussian(3, 512)
    clean = format.encode(rows, None)
    rows[1, 3], rows[1, 300] = np.nan, np.inf
    assert np.array_equal(format.encode(rows, None)[[0, 2]], clean[[0, 2]])


# --- shapes, threads, machines ---


@every_format
def test_one_importance_row_serves_all(format: Format) -> None:
    rows, importance = gaussian(5, 512), uneven(512)
    each = np.broadcast_to(importance, rows.shape)
    assert np.array_equal(format.encode(rows, importance), format.encode(rows, each))


@every_block_format
def test_rows_may_have_their_own_importance(format: Format) -> None:
    rows = gaussian(5, 512)
    importance = np.stack([uneven(512, seed=row) for row in range(5)])
    alone = [format.encode(rows[row : row + 1], importance[row]) for row in range(5)]
    assert np.array_equal(format.encode(rows, importance), np.concatenate(alone))


@every_format
@pytest.mark.parametrize("shape", [(1, 256), (3, 256), (1, 4096), (37, 768)])
def test_threads_and_instruction_sets_do_not_matter(format: Format, shape: tuple[int, int]) -> None:
    rows, importance = heavy_tailed(*shape), uneven(shape[1])
    expected = _native.encode(format.name, rows, importance, 1)
    blocks = [_native.encode(format.name, rows, importance, threads) for threads in (2, 3, 16)]
    blocks += [_native.encode(format.name, rows, importance, 1, level) for level in range(_native.isa_levels())]
    assert all(np.array_equal(other, expected) for other in blocks)
    assert same_bits(
        _native.decode(format.name, expected, shape[1], 1), _native.decode(format.name, expected, shape[1], 5)
    )


@every_format
def test_rows_are_independent(format: Format) -> None:
    rows = heavy_tailed(9, 256)
    assert np.array_equal(format.encode(rows, None), np.concatenate([format.encode(row[None], None) for row in rows]))


@every_format
def test_any_memory_layout(format: Format) -> None:
    rows = gaussian(512, 6)
    assert np.array_equal(format.encode(rows.T, None), format.encode(rows.T.copy(), None))
    blocks = format.encode(rows.T, None)
    spread = np.repeat(blocks, 2, axis=1)[:, ::2]
    assert same_bits(format.decode(spread), format.decode(blocks))


@every_format
def test_no_rows(format: Format) -> None:
    blocks = format.encode(np.empty((0, 512), np.float32), None)
    assert blocks.shape == (0, 512 // format.block * format.block_bytes)
    assert format.decode(blocks).shape == (0, 512)


@every_block_format
def test_wrong_shapes_are_refused(format: Format) -> None:
    rows = gaussian(2, 512)
    blocks = format.encode(rows, None)
    with pytest.raises(ValueError, match=f"{format.name} stores rows in blocks of {format.block} weights.* 500"):
        format.encode(rows[:, :500], None)
    with pytest.raises(ValueError, match=r"rows must be \(N, K\), not \(512,\)"):
        format.encode(rows[0], None)
    for wrong in (np.ones(256), np.ones((1, 512)), np.ones((2, 2, 256)), np.ones((512, 2))):
        with pytest.raises(ValueError, match="importance of shape"):
            format.encode(rows, wrong.astype(np.float32))
    for wrong_blocks in (blocks[:, :-1], blocks[0]):
        with pytest.raises(ValueError, match=f"{format.name} blocks must be"):
            format.decode(wrong_blocks)
    with pytest.raises(ValueError, match="do not fit"):
        _native.decode(format.name, blocks, 256)
    with pytest.raises(ValueError, match="do not fit"):
        _native.unpack(format.name, blocks, 1024)


def test_native_refuses_what_it_cannot_read() -> None:
    rows = gaussian(2, 512)
    with pytest.raises(ValueError, match="rows must be float32"):
        _native.encode("q4_0", rows.astype(np.float64), None)
    with pytest.raises(ValueError, match="rows must be C-contiguous"):
        _native.encode("q4_0", rows[:, ::2], None)
    with pytest.raises(ValueError, match="importance must be float32"):
        _native.encode("q4_0", rows, np.ones(512))
    with pytest.raises(ValueError, match="importance must be None or a float32 array"):
        _native.encode("q4_0", rows, [1.0] * 512)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="blocks must be uint8"):
        _native.decode("q4_0", rows, 512)
    with pytest.raises(ValueError, match="no block format is called 'q9'"):
        _native.encode("q9", rows, None)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        _native.encode("q4_0", rows, None, 0)
    with pytest.raises(ValueError, match="f16 is a float format"):
        _native.unpack("f16", np.zeros((1, 2), np.uint8), 1)
