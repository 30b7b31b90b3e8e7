"""Read safetensors with numpy alone, trusting nothing in the header.

The format (https://github.com/huggingface/safetensors#format): 8 bytes N, little endian; N bytes of JSON, a mapping of
tensor names to dtype, shape and data_offsets [begin, end) within the rest of the file; the values, contiguous.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError
from edgekit.models.sources.stored import FLOAT_TYPES, StoredTensor, opened, read_floats

MAX_HEADER_BYTES = 100_000_000  # the reference implementation's bound
MAX_DIMENSIONS = 8
MAX_NAME = 1 << 10
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}


class SafetensorsSource:
    """The tensors of one or more safetensors files, each header checked when opened."""

    def __init__(self, files: tuple[Path, ...]) -> None:
        self._stored: dict[str, StoredTensor] = {}
        for file in files:
            for stored in read_header(file):
                if stored.name in self._stored:
                    other = self._stored[stored.name].file
                    raise InputError(f"{file} and {other} both hold {stored.name}: keep the shards of one model only")
                self._stored[stored.name] = stored

    @property
    def stored(self) -> dict[str, StoredTensor]:
        """Every tensor in the files by name, in file order."""
        return self._stored

    def dtype(self, name: str) -> str:
        return self._stored[name].dtype

    def read(self, name: str) -> NDArray[np.float32]:
        stored = self._stored[name]
        if stored.dtype not in FLOAT_TYPES:
            raise InputError(f"{stored.file}: {name} is stored as {stored.dtype}, not as F16, BF16 or F32")
        return read_floats(stored)


def read_header(path: Path) -> list[StoredTensor]:
    """The tensors of a safetensors file in the order of their values; InputError wherever the header lies."""
    with opened(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise InputError(f"{path}: a header of {length} bytes in a file of {size}: copy or download it again")
        if length > MAX_HEADER_BYTES:
            raise InputError(f"{path}: a header of {length} bytes is no model's: copy or download it again")
        raw = file.read(length)
    start = 8 + length
    tensors = [_entry(path, name, value, start) for name, value in _parse(path, raw).items() if name != "__metadata__"]
    tensors.sort(key=lambda stored: (stored.offset, stored.bytes))
    end = start
    for stored in tensors:
        if stored.offset != end:
            raise InputError(f"{path}: {stored.name} starts at byte {stored.offset}, not {end}: the header is damaged")
        end += stored.bytes
    if end != size:
        state = "cut short" if end > size else "longer than its header says"
        raise InputError(f"{path} is {state} ({size} bytes, not {end}): copy or download it again")
    return tensors


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a name occurs twice")
        return result

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the header is not JSON ({error}): copy or download it again") from error
    if not isinstance(header, dict):
        raise InputError(f"{path}: the header is not a JSON object: copy or download it again")
    return header


def _entry(path: Path, name: str, value: Any, start: int) -> StoredTensor:
    """One entry, checked in itself: known dtype, sane shape, and as many bytes as those two make."""
    if not name.isprintable() or len(name) > MAX_NAME:
        raise InputError(f"{path}: a tensor's name is not printable: the header is damaged")
    entry = value if isinstance(value, dict) else {}
    dtype, shape, offsets = entry.get("dtype"), _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        raise InputError(f"{path}: {name} has the unknown type {str(dtype)[:40]!r}: the header is damaged")
    if shape is None or len(shape) > MAX_DIMENSIONS:
        raise InputError(f"{path}: {name} has no valid shape: the header is damaged")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InputError(f"{path}: {name} has no valid data_offsets: the header is damaged")
    size = offsets[1] - offsets[0]
    if math.prod(shape) * BITS[dtype] != 8 * size:
        raise InputError(f"{path}: {name} has {size} bytes for {dtype} {list(shape)}: the header is damaged")
    return StoredTensor(name, dtype, shape, size, path, start + offsets[0])


def _counts(value: Any) -> tuple[int, ...] | None:
    """A list of counts as a tuple; None where it is anything else."""
    if isinstance(value, list) and all(type(entry) is int and 0 <= entry < 1 << 62 for entry in value):
        return tuple(value)
    return None
