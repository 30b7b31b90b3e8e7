"""The float16 scales of a block, which training may change while codes and sub-scales stay.

A weight is linear in them: d times what its code and sub-scale make, plus dmin (or m) times what its sub-block's
minimum makes. The coefficients are what a block decodes to with one scale at 1 and the other at 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.quant.formats.format import Blocks, FloatRows, Format


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


def scale_gradient(format: Format, blocks: Blocks, gradient: FloatRows) -> NDArray[np.float32]:
    """The gradient (N, S, F) at the scales of a function whose gradient at the decoded weights is (N, K)."""
    assert format.unpack is not None
    rows, columns = gradient.shape
    unit = format.unpack(with_scales(format, blocks, np.ones(_shape(format, blocks), dtype=np.float32)))
    levels = unit.codes.astype(np.float32) if unit.levels is None else unit.levels[unit.codes]
    grouped = gradient.reshape(rows, -1, unit.group)
    per_group = [np.einsum("ngk,ngk->ng", grouped, levels.reshape(grouped.shape)) * unit.scales]
    if unit.minima is not None:
        per_group.append(grouped.sum(axis=2) * -unit.minima)
    blocks_per_row = columns // format.block
    return np.stack([part.reshape(rows, blocks_per_row, -1).sum(axis=2) for part in per_group], axis=2)


def _split(format: Format, blocks: Blocks) -> Blocks:
    """A view (N, S, bytes of a block)."""
    return blocks.reshape(len(blocks), -1, format.block_bytes)


def _shape(format: Format, blocks: Blocks) -> tuple[int, int, int]:
    return len(blocks), blocks.shape[1] // format.block_bytes, len(format.scales)
