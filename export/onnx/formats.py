"""The block formats that ONNX carries (`quant/containers.py`): the same values, codes with a float32 scale for 32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.export.onnx.graph import BFLOAT16
from edgekit.quant.formats import Blocks, format_of

BLOCK = 32  # weights that share a scale
BITS = {"q4_0": 4, "q8_0": 8}  # of a code
FLOATS: dict[str, np.dtype[Any]] = {"f16": np.dtype("<f2"), "bf16": BFLOAT16, "f32": np.dtype("<f4")}


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
