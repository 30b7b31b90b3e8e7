"""What ONNX carries of the block formats: exactly the same values, as codes with a float32 scale for every 32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError
from edgekit.quant.formats import Blocks, format_of

BLOCK = 32  # weights that share a scale
BITS = {"q4_0": 4, "q8_0": 8}  # of a code
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
    """What a matrix takes in the file: Q4_0 5 bits a weight and Q8_0 9, for GGUF's float16 scales are float32 here."""
    if format in FLOATS:
        return rows * columns * FLOATS[format].itemsize
    return rows * (columns // BLOCK) * (BLOCK * BITS[format] // 8 + 4)


def floats(format: str, blocks: Blocks) -> NDArray[Any]:
    """A float matrix (N, K) from its blocks, which are its values."""
    return blocks.view(FLOATS[format])


def codes_and_scales(format: str, blocks: Blocks) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A quantised matrix's signed codes (N, K) and its scales (N, K / 32): their products are its values."""
    unpack = format_of(format).unpack
    assert unpack is not None and format in BITS
    parts = unpack(blocks)
    return parts.codes.astype(np.int8), parts.scales


def packed(codes: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Codes (N, K) as unsigned ones (N, K * bits / 8), the zero point in the middle.

    Where two share a byte, the even column's is the low half.
    """
    unsigned = (codes.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    return unsigned if bits == 8 else unsigned[:, 0::2] | np.left_shift(unsigned[:, 1::2], 4)


def scales_of(name: str) -> str:
    """The name of a quantised matrix's scales."""
    return f"{name}.scales"
