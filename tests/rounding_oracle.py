"""Error-compensated rounding and coordinate descent, dense and in float64, as textbooks have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.quant.formats import Format

Floats = NDArray[np.float64]

LINEAR = {"q8_0": (-127, 127), "q4_0": (-8, 7), "q4_1": (0, 15), "q5_0": (-16, 15), "q5_1": (0, 31)}
LINEAR |= {"q4_k": (0, 15), "q5_k": (0, 31), "q6_k": (-32, 31)}
SCALES = {"q4_k": (0, 63), "q5_k": (0, 63), "q6_k": (-128, 127)}  # of groups, where a format has them
MINIMA = {"q4_k": (0, 63), "q5_k": (0, 63)}


@dataclass
class Parts:
    """All that blocks store: value[n, k] = d * scale * level - dmin * minimum."""

    d: Floats  # (N, K / block)
    dmin: Floats
    scale: Floats  # (N, K / group)
    minimum: Floats
    level: Floats  # (N, K)
    block: int
    group: int

    def decoded(self, row: int) -> Floats:
        per_block, per_group = self.block, self.group
        scale = np.repeat(self.d[row], per_block) * np.repeat(self.scale[row], per_group)
        return scale * self.level[row] - np.repeat(self.dmin[row], per_block) * np.repeat(self.minimum[row], per_group)


def allowed_levels(format: Format) -> Floats:
    if format.name == "iq4_nl":
        return np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float64)
    low, high = LINEAR[format.name]
    return np.arange(low, high + 1, dtype=np.float64)


def parts_of(format: Format, blocks: NDArray[np.uint8]) -> Parts:
    """Read from the bytes; the codes by the format's own unpacking."""
    assert format.unpack
    codes = format.unpack(blocks)
    level = codes.codes.astype(np.float64) if codes.levels is None else codes.levels[codes.codes].astype(np.float64)
    rows = len(blocks)
    each = blocks.reshape(rows, -1, format.block_bytes)

    def half(at: int) -> Floats:
        return np.ascontiguousarray(each[:, :, at : at + 2]).view(np.float16)[..., 0].astype(np.float64)

    d = half(208 if format.name == "q6_k" else 0)
    dmin = np.zeros_like(d)
    scale = np.ones((rows, level.shape[1] // codes.group))
    minimum = np.ones_like(scale)
    if format.name in ("q4_1", "q5_1"):
        dmin = -half(2)
    if format.name in MINIMA:
        dmin = half(2)
        low, high, last = each[:, :, 4:8], each[:, :, 8:12], each[:, :, 12:16]
        scale = np.concatenate([low & 63, last & 15 | low >> 6 << 4], axis=2).reshape(rows, -1).astype(np.float64)
        minimum = np.concatenate([high & 63, last >> 4 | high >> 6 << 4], axis=2).reshape(rows, -1).astype(np.float64)
    if format.name == "q6_k":
        scale = each[:, :, 192:208].view(np.int8).reshape(rows, -1).astype(np.float64)
    return Parts(d, dmin, scale, minimum, level, format.block, codes.group)


def nearest(levels: Floats, wanted: float) -> float:
    return float(levels[np.argmin(np.abs(levels - wanted))])


def compensated(format: Format, values: Floats, blocks: NDArray[np.uint8], hessian: Floats, order: Floats) -> Floats:
    """The levels (N, K) by the definition: before a column is rounded, all columns that are not yet rounded are where
    e^T H e has its minimum, given the errors of those that are. No factor: a dense solution for every column.
    """
    parts, levels = parts_of(format, blocks), allowed_levels(format)
    errors, out = np.zeros(values.shape), np.zeros(values.shape)
    for p, k in enumerate(order):
        rounded, left = order[:p], order[p:]
        wanted = values[:, k].copy()
        if p:
            moved = np.linalg.solve(hessian[np.ix_(left, left)], hessian[np.ix_(left, rounded)] @ errors[:, rounded].T)
            wanted -= moved[0]
        scale = parts.d[:, k // parts.block] * parts.scale[:, k // parts.group]
        minimum = parts.dmin[:, k // parts.block] * parts.minimum[:, k // parts.group]
        for row in range(len(values)):
            inverse = 1 / scale[row] if scale[row] else 0
            out[row, k] = nearest(levels, (wanted[row] + minimum[row]) * inverse)
        errors[:, k] = scale * out[:, k] - minimum - values[:, k]
    return out


Grid = Callable[[float], float]


def half_grid(value: float) -> float:
    return float(np.float16(np.clip(value, -65504, 65504)))


def integer_grid(ends: tuple[int, int]) -> Grid:
    return lambda value: float(np.rint(np.clip(value, *ends)))


class Descent:
    """Coordinate descent of one row. `trace` are the e^T H e at the start and after each step taken."""

    def __init__(self, format: Format, values: Floats, parts: Parts, row: int, hessian: Floats) -> None:
        self.format, self.values, self.parts, self.row, self.hessian = format, values, parts, row, hessian
        self.levels = allowed_levels(format)
        self.trace = [self.error()]

    def errors(self) -> Floats:
        return self.parts.decoded(self.row) - self.values

    def error(self) -> float:
        e = self.errors()
        return float(e @ self.hessian @ e)

    def sweep(self) -> bool:
        """Whether anything changed."""
        steps, parts = len(self.trace), self.parts
        per_block = parts.block // parts.group
        for block in range(parts.d.shape[1]):
            self.block_step(block)
            for group in range(block * per_block, (block + 1) * per_block):
                if self.format.name in SCALES:
                    self.group_step(block, group)
                for k in range(group * parts.group, (group + 1) * parts.group):
                    self.code_step(block, group, k)
        return len(self.trace) > steps

    def block_step(self, block: int) -> None:
        parts, row = self.parts, self.row
        columns = slice(block * parts.block, (block + 1) * parts.block)
        along, across = np.zeros(len(self.values)), np.zeros(len(self.values))
        along[columns] = (np.repeat(parts.scale[row], parts.group) * parts.level[row])[columns]
        across[columns] = -np.repeat(parts.minimum[row], parts.group)[columns]
        if not self.has_minima():
            across[:] = 0
        self.pair_step(parts.d[row], parts.dmin[row], block, along, across, half_grid, half_grid)

    def group_step(self, block: int, group: int) -> None:
        parts, row, name = self.parts, self.row, self.format.name
        columns = slice(group * parts.group, (group + 1) * parts.group)
        along, across = np.zeros(len(self.values)), np.zeros(len(self.values))
        along[columns] = parts.d[row, block] * parts.level[row, columns]
        across[columns] = -parts.dmin[row, block]
        minima = integer_grid(MINIMA.get(name, (1, 1)))
        self.pair_step(parts.scale[row], parts.minimum[row], group, along, across, integer_grid(SCALES[name]), minima)

    def has_minima(self) -> bool:
        return self.format.name in ("q4_1", "q5_1", "q4_k", "q5_k")

    def pair_step(
        self, first: Floats, second: Floats, at: int, along: Floats, across: Floats, grid_a: Grid, grid_b: Grid
    ) -> None:
        slope = self.hessian @ self.errors()
        a, b = float(first[at]), float(second[at])
        aa, ab, bb = along @ self.hessian @ along, along @ self.hessian @ across, across @ self.hessian @ across
        slope_a, slope_b = along @ slope, across @ slope
        tried = [(a, b)]
        if aa * bb - ab * ab > 1e-6 * aa * bb:
            to = grid_a(a + np.linalg.solve([[aa, ab], [ab, bb]], [-slope_a, -slope_b])[0])
        else:
            to = a
        tried.append((to, grid_b(b - (slope_b + ab * (to - a)) / bb) if bb > 0 else b))
        tried.append((grid_a(a - slope_a / aa) if aa > 0 else a, b))
        tried.append((a, grid_b(b - slope_b / bb) if bb > 0 else b))
        found = []
        for to_a, to_b in tried:
            first[at], second[at] = to_a, to_b
            found.append(self.error())
        best = int(np.argmin(found))
        first[at], second[at] = tried[best]
        self.record(found[best])

    def code_step(self, block: int, group: int, k: int) -> None:
        parts, row = self.parts, self.row
        scale, now, before = parts.d[row, block] * parts.scale[row, group], parts.level[row, k], self.trace[-1]
        steepness = scale * self.hessian[k, k]
        if not self.hessian[k, k] > 0 or not steepness:
            return
        parts.level[row, k] = nearest(self.levels, now - (self.hessian[k] @ self.errors()) / steepness)
        if parts.level[row, k] == now:
            return
        if self.error() < before:
            self.record(self.error())
        else:
            parts.level[row, k] = now

    def record(self, error: float) -> None:
        if error < self.trace[-1]:
            self.trace.append(error)
