"""The float16 scales of a block, which training may change while codes and sub-scales stay.

A weight is linear in them: d times what its code and sub-scale make, plus dmin (or m) times what its sub-block's
minimum makes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.quant.formats.format import Blocks, Format


def read_scales(format: Format, blocks: Blocks) -> NDArray[np.float32]:
    """The scales (N, S, F) float32 of blocks (N, B) uint8: S blocks a row, F scales a block."""
    parts = _split(format, blocks)
    fields = [np.ascontiguousarray(parts[:, :, at : at + 2]).view("<f2")[:, :, 0] for at in format.scales]
    return np.stack(fields, axis=2).astype(np.float32)


def with_scales(format: Format, blocks: Blocks, scales: NDArray[np.float32]) -> Blocks:
    """The blocks with those scales (N, S, F), rounded to the nearest float16."""
    changed = blocks.copy()
    parts = _split(format, changed)
    for field, at in enumerate(format.scales):
        parts[:, :, at : at + 2] = np.ascontiguousarray(scales[:, :, field], dtype="<f2")[..., None].view(np.uint8)
    return changed


def _split(format: Format, blocks: Blocks) -> Blocks:
    """A view (N, S, bytes of a block)."""
    return blocks.reshape(len(blocks), -1, format.block_bytes)
