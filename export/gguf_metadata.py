"""Pack GGUF metadata: plain Python values to the specification's bytes (ggml's docs/gguf.md, version 3).

Types follow what stock converters write: int as uint32, float as float32, lists of int as int32. The gguf package's
writer packs element by element and writes to paths only.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


def pack_metadata(metadata: Mapping[str, Any]) -> bytes:
    """The key-value section. Values: str, bool, int, float, or a non-empty list of one of these."""
    return b"".join(pack_string(key) + _pack_value(value) for key, value in metadata.items())


def pack_string(text: str) -> bytes:
    """uint64 length and bytes; lone surrogates stand for what was not UTF-8 (see models/gguf_header.py)."""
    data = text.encode("utf-8", errors="surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _pack_value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + pack_string(value)
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    assert isinstance(value, list) and value, f"no GGUF type for {value!r}"
    kind, data = _pack_elements(value)
    return struct.pack("<IIQ", _ARRAY, kind, len(value)) + data


def _pack_elements(values: list[Any]) -> tuple[int, bytes]:
    first = values[0]
    if isinstance(first, str):
        return _STRING, b"".join(map(pack_string, values))
    if isinstance(first, bool):
        return _BOOL, np.array(values, dtype="?").tobytes()
    if isinstance(first, int):
        return _INT32, np.array(values, dtype="<i4").tobytes()
    return _FLOAT32, np.array(values, dtype="<f4").tobytes()
