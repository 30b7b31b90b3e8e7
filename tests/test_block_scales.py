"""The float16 scales of blocks: where they are."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.quant.formats import FORMATS, Format
from edgekit.quant.formats.block_scales import read_scales, with_scales

BLOCK_FORMATS = [format for format in FORMATS if format.unpack is not None]
FORMAT = pytest.mark.parametrize("format", BLOCK_FORMATS, ids=lambda format: format.name)


def some_blocks(format: Format) -> np.ndarray:
    return format.encode(np.random.default_rng(1).normal(size=(5, 512)).astype(np.float32), None)


@FORMAT
def test_scales_of_zero_leave_zeros_and_doubled_ones_double(format: Format) -> None:
    blocks = some_blocks(format)
    scales = read_scales(format, blocks)
    assert scales.shape == (5, 512 // format.block, len(format.scales))
    assert np.array_equal(with_scales(format, blocks, scales), blocks)
    assert not format.decode(with_scales(format, blocks, 0 * scales)).any()
    doubled = with_scales(format, blocks, 2 * scales)
    assert np.array_equal(format.decode(doubled), 2 * format.decode(blocks))
    assert np.array_equal(read_scales(format, doubled), 2 * scales)


@FORMAT
def test_new_scales_are_rounded_to_the_nearest_float16_and_nothing_else_changes(format: Format) -> None:
    assert format.unpack is not None
    blocks = some_blocks(format)
    wanted = read_scales(format, blocks) * np.float32(1.0123456)
    changed = with_scales(format, blocks, wanted)
    assert np.array_equal(read_scales(format, changed), wanted.astype(np.float16).astype(np.float32))
    assert np.array_equal(format.unpack(changed).codes, format.unpack(blocks).codes)
    assert np.array_equal(with_scales(format, changed, read_scales(format, blocks)), blocks)
