"""What a source of tensors provides, one tensor as a file stores it, and reading its values in pieces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError

PIECE_BYTES = 1 << 24  # what reading holds beside the result

# Bytes per value of the types that weights may have, and how numpy reads them (BF16 as its 16 bits).
FLOAT_TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


@dataclass(frozen=True)
class StoredTensor:
    """The name as the file has it, torch's shape; `offset` is in `file`, `bytes` what the values take there."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    file: Path
    offset: int = 0


class TensorSource(Protocol):
    """Where tensors lie: safetensors shards, a GGUF, a pickle loaded with weights_only, an adapter merged on top."""

    @property
    def stored(self) -> Mapping[str, StoredTensor]:
        """Every tensor that is there, by Hugging Face name: type, shape, bytes, file."""

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor of that Hugging Face name as float32, in torch's shape."""

    def dtype(self, name: str) -> str:
        """Its stored type: "F32", "F16", "BF16" or, from a quantised GGUF, the ggml type's name."""


def read_floats(stored: StoredTensor) -> NDArray[np.float32]:
    """The values of an F64, F32, F16 or BF16 tensor as float32, in its shape; InputError where the file got shorter."""
    dtype = FLOAT_TYPES[stored.dtype]
    result = np.empty(math.prod(stored.shape), np.float32)
    step = PIECE_BYTES // dtype.itemsize
    with opened(stored.file) as file:
        file.seek(stored.offset)
        for start in range(0, result.size, step):
            part = result[start : start + step]
            piece = np.fromfile(file, dtype, part.size)
            if piece.size != part.size:
                raise InputError(f"{stored.file} ends within {stored.name}: copy or download it again")
            to_float32(piece, stored.dtype, part)
    return result.reshape(stored.shape)


def to_float32(piece: NDArray[np.generic], dtype: str, out: NDArray[np.float32]) -> None:
    """Convert a piece to float32 in place of `out`; BF16 is the upper half of a float32."""
    if dtype == "BF16":
        np.left_shift(piece, 16, out=out.view(np.uint32), dtype=np.uint32)
    else:
        with np.errstate(over="ignore"):  # an F64 beyond float32 becomes Inf, which the checkpoint refuses
            np.copyto(out, piece, casting="same_kind")


def opened(path: Path) -> BinaryIO:
    """The file opened for binary reading; InputError where that fails."""
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
