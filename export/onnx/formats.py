"""What ONNX carries of the block formats, and how: exactly the same values, in its operators' own layout.

A quantised block of 32 weights scale * (code - zero point) is `com.microsoft`'s MatMulNBits with block_size 32: the
codes unsigned, packed along the row, and one float32 scale a block, which holds GGUF's float16 scale exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError
from edgekit.quant.formats import Blocks, format_of

BLOCK = 32  # weights that share a scale
BITS = {"q4_0": 4, "q8_0": 8}  # of a code; zero points are MatMulNBits' default, 8 and 128
FLOATS: dict[str, np.dtype[Any]] = {"f16": np.dtype("<f2"), "f32": np.dtype("<f4")}
CARRIED = (*BITS, *FLOATS)


def require_carried(formats: Mapping[str, str]) -> None:
    """Raise InputError with the list of what is possible where a matrix's format is another."""
    for name, format in formats.items():
        if format not in CARRIED:
            raise InputError(
                f"ONNX cannot carry {format}, the type of {name}: make a plan of {', '.join(CARRIED)} "
                f"with --formats {','.join(CARRIED)}"
            )


def matrix_bytes(format: str, rows: int, columns: int) -> int:
    """What a matrix takes in the file: Q4_0 5 bits a weight and Q8_0 9, for the scales are float32."""
    if format in FLOATS:
        return rows * columns * FLOATS[format].itemsize
    return rows * (columns // BLOCK) * (BLOCK * BITS[format] // 8 + 4)


def arrays(name: str, format: str, blocks: Blocks) -> dict[str, NDArray[Any]]:
    """A matrix's stored tensors, by name, from its blocks.

    A float one is itself, (N, K). A quantised one is its codes (N, K / 32, 4 * bits) uint8, the code of an even column
    in the low half of its byte where two share one, and its scales (N, K / 32) float32.
    """
    if format in FLOATS:
        return {name: blocks.view(FLOATS[format])}
    bits, unpack = BITS[format], format_of(format).unpack
    assert unpack is not None
    parts = unpack(blocks)
    codes = (parts.codes.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    if bits == 4:
        codes = codes[:, 0::2] | np.left_shift(codes[:, 1::2], 4)
    return {name: codes.reshape(*parts.scales.shape, BLOCK * bits // 8), scales_of(name): parts.scales}


def scales_of(name: str) -> str:
    """The name of a quantised matrix's scales."""
    return f"{name}.scales"
