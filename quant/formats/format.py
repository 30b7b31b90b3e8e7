"""What a block format is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatRows = NDArray[np.float32]
Blocks = NDArray[np.uint8]


@dataclass(frozen=True)
class Codes:
    """A format's parts: value[n, k] = scales[n, k // group] * levels[codes[n, k]] - minima[n, k // group].

    `levels` is None where the code itself is the level (code as a signed integer). Shapes: codes (N, K) int8 or uint8;
    scales and minima (N, K // group) float32, the doubly quantised ones multiplied out; minima is None where the format
    has none.
    """

    codes: NDArray[np.int8] | NDArray[np.uint8]
    scales: NDArray[np.float32]
    minima: NDArray[np.float32] | None
    levels: NDArray[np.float32] | None
    group: int


@dataclass(frozen=True)
class Format:
    """A GGUF tensor type: rows of float32 to rows of block bytes and back.

    encode(rows (N, K) float32, importance (K,) or (N, K) float32 or None) -> (N, K // block * block_bytes) uint8
    decode(blocks (N, B) uint8) -> (N, K) float32
    unpack(blocks (N, B) uint8) -> Codes; None for the float formats
    """

    name: str  # lower case: "q4_0"
    ggml_type: int  # gguf.GGMLQuantizationType
    file_type: int  # gguf.LlamaFileType, for general.file_type
    width: int  # the user-facing width: 4, 5, 6, 8, 16 or 32
    block: int  # weights per block
    block_bytes: int
    scales: tuple[int, ...]  # byte offsets in a block of its float16 scales: d, and dmin or m where there is one
    encode: Callable[[FloatRows, FloatRows | None], Blocks]
    decode: Callable[[Blocks], FloatRows]
    unpack: Callable[[Blocks], Codes] | None

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block

    def carries(self, columns: int) -> bool:
        """Whether rows of that many columns can be stored: a row is a whole number of blocks."""
        return columns % self.block == 0

    def bytes(self, rows: int, columns: int) -> int:
        """The stored size of a (rows, columns) tensor."""
        return rows * (columns // self.block) * self.block_bytes
