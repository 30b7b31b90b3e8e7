"""Read a GGUF file's header: its metadata and where its tensors lie; every size is checked against the file first.

The layout is the specification's (ggml's docs/gguf.md): magic, version, counts, key-value pairs, tensor infos, padding,
data. The gguf package's reader makes several objects per array element and takes ten seconds for 262,144 tokens.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.models.errors import InputError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_MAX_DIMENSIONS = 4
_MAX_NAME = 1 << 10
_MAX_ARRAY = 1 << 24  # far more than any vocabulary: an array becomes a list, many times its size in the file
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True)
class TensorInfo:
    """A stored tensor: shape as torch has it (rows, columns), ggml type number, offset from the start of the file."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int


@dataclass(frozen=True)
class GgufHeader:
    """Metadata with plain Python values (arrays as lists) and the tensors in file order."""

    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    data_offset: int


def read_header(path: Path) -> GgufHeader:
    """The header of a GGUF file; InputError where the file is missing, truncated or not a GGUF."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            return _Reader(path, buffer).header()
    except (OSError, ValueError) as error:  # mmap refuses an empty file with ValueError
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as a GGUF file: {error}: give a complete .gguf file") from error


class _Reader:
    def __init__(self, path: Path, buffer: mmap.mmap) -> None:
        self.path, self.buffer, self.position = path, buffer, 0

    def header(self) -> GgufHeader:
        if self._take(4) != _MAGIC:
            raise self._bad("it does not begin with 'GGUF'")
        version = self._number("<u4")
        if version not in _VERSIONS:
            raise self._bad(f"version {version} is not 2 or 3")
        tensor_count, key_count = self._number("<u8"), self._number("<u8")
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self._name()
            if key in metadata:
                raise self._bad(f"key '{key}' is there twice")
            metadata[key] = self._value(self._number("<u4"))
        infos = [self._tensor_info() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise self._bad(f"its alignment {alignment} is not a power of two")
        start = -(-self.position // alignment) * alignment
        tensors = tuple(TensorInfo(name, shape, kind, start + offset) for name, shape, kind, offset in infos)
        if any(tensor.offset > len(self.buffer) for tensor in tensors):
            raise self._bad("a tensor lies beyond its end: the file is truncated")
        return GgufHeader(metadata, tensors, start)

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self._name(), self._number("<u4")
        if dimensions > _MAX_DIMENSIONS:
            raise self._bad(f"tensor '{name}' has {dimensions} dimensions")
        shape = tuple(self._number("<u8") for _ in range(dimensions))[::-1]
        return name, shape, self._number("<u4"), self._number("<u8")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._number(self._scalar(kind))
        element, count = self._number("<u4"), self._number("<u8")
        if count > _MAX_ARRAY:
            raise self._bad(f"an array in its header has {count} elements")
        if element == _STRING:
            self._need(8 * count)
            return [self._string() for _ in range(count)]
        dtype = np.dtype(self._scalar(element))
        return np.frombuffer(self._take(count * dtype.itemsize), dtype).tolist()

    def _scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self._bad(f"value type {kind} is unknown")
        return _SCALARS[kind]

    def _number(self, dtype: str) -> Any:
        size = np.dtype(dtype).itemsize
        return np.frombuffer(self._take(size), dtype)[0].item()

    def _name(self) -> str:
        """A key's or tensor's name: it appears in messages, so it has to be fit for a terminal."""
        name = self._string()
        if not name.isprintable() or len(name) > _MAX_NAME:
            raise self._bad("a name in its header is not printable")
        return name

    def _string(self) -> str:
        self._need(8)
        (length,) = struct.unpack_from("<Q", self.buffer, self.position)
        self.position += 8
        # Some published vocabularies hold pieces that are not UTF-8; they must survive a round trip.
        return self._take(length).decode("utf-8", errors="surrogateescape")

    def _take(self, count: int) -> bytes:
        self._need(count)
        start, self.position = self.position, self.position + count
        return self.buffer[start : self.position]

    def _need(self, count: int) -> None:
        if count > len(self.buffer) - self.position:
            raise self._bad("a size in its header is larger than the file: the file is truncated or damaged")

    def _bad(self, what: str) -> InputError:
        return InputError(f"{self.path} is not a usable GGUF file: {what}: download or export it again")
