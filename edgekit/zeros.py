"""What the zeros of a pruned checkpoint come to in a GGUF, which has no way of leaving them out."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.figures import bytes_text
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.spec import MATRIX_ROLES, TensorSpec
from edgekit.pruning_file import read_pruning
from edgekit.quant.formats import Blocks, format_of

LEFT_ALONE = ("embedding", "head")  # their rows are tokens: what a rare one loses no calibration text shows
COMPRESSION_LEVEL = 6  # zlib's default
GGUF_NOTE = "a GGUF stores zeros like any other weight: no type makes the file smaller by them"
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Zeros:
    """Of the weights that pruning chose from, the share that is zero; the share of these still zero in a file."""

    share: float
    kept: float
    zlib_bytes: int  # the whole file by zlib

    @property
    def note(self) -> str:
        """A sentence for the user."""
        return (
            f"pruned checkpoint: {100 * self.share:.1f} % of its layers' weights are zeros, {100 * self.kept:.1f} % of "
            f"these in this file too; {GGUF_NOTE}; zlib packs it into {bytes_text(self.zlib_bytes)}; KLs are to the "
            "pruned checkpoint, not to what it was before"
        )


def is_pruned(checkpoint: Checkpoint) -> bool:
    """Whether `edgekit prune --sparsity` wrote it."""
    return "sparsity" in read_pruning(checkpoint.path)


def prunable(checkpoint: Checkpoint) -> tuple[TensorSpec, ...]:
    """The tensors whose weights pruning chooses from."""
    roles = set(MATRIX_ROLES) - set(LEFT_ALONE)
    return tuple(tensor for tensor in checkpoint.tensors if tensor.role in roles)


class ZeroCount:
    """Counts a pruned checkpoint's zeros, and how many of them are zeros in the blocks that pass through `watched`."""

    def __init__(self, checkpoint: Checkpoint, formats: Mapping[str, str]) -> None:
        self._checkpoint = checkpoint
        self._formats = formats
        self._names = {tensor.name for tensor in prunable(checkpoint)}
        self._weights = self._zeros = self._kept = 0

    def watched(self, tensors: Iterator[tuple[str, Blocks]]) -> Iterator[tuple[str, Blocks]]:
        """The same tensors (name, blocks)."""
        for name, blocks in tensors:
            if name in self._names:
                zeros = self._checkpoint.read(name) == 0
                self._weights += zeros.size
                self._zeros += int(np.count_nonzero(zeros))
                self._kept += int(np.count_nonzero(zeros & (format_of(self._formats[name]).decode(blocks) == 0)))
            yield name, blocks

    def of_file(self, path: Path) -> Zeros:
        """What was counted, and the size of the file that it went into."""
        return Zeros(self._zeros / self._weights, self._kept / max(1, self._zeros), _zlib_bytes(path))


def _zlib_bytes(path: Path) -> int:
    packer, size = zlib.compressobj(COMPRESSION_LEVEL), 0
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            size += len(packer.compress(piece))
    return size + len(packer.flush())
