"""The companion of a plan file: what rounding needs of the statistics, so that a plan can be carried out on its own.

A safetensors file beside the plan: for term i of each matrix, "NAME/i/rows" (N,) and "NAME/i/columns" (K,), float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgekit.models.errors import InputError, MissingExtra
from edgekit.quant.statistics import Importance

MAX_BYTES = 1 << 30


def encode_importance(importance: Mapping[str, Importance]) -> bytes:
    """The file's bytes; the same for the same values."""
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise MissingExtra("safetensors", "quantize") from error
    tensors = {}
    for name, parts in importance.items():
        for term, (rows, columns) in enumerate(zip(parts.rows, parts.columns, strict=True)):
            tensors[f"{name}/{term}/rows"] = np.ascontiguousarray(rows, dtype=np.float32)
            tensors[f"{name}/{term}/columns"] = np.ascontiguousarray(columns, dtype=np.float32)
    return bytes(save(tensors))


def read_importance(path: Path, sha256: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Importance]:
    """The importance of every matrix in `shapes`; InputError where the file is not the one written with the plan."""
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load
    except ImportError as error:
        raise MissingExtra("safetensors", "quantize") from error
    way_out = "restore it, or make the plan again with 'edgekit plan'"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is too large for a plan's importance: {way_out}")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}: {way_out}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path} is not the file that belongs to the plan (its sha256 differs): {way_out}")
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}): {way_out}") from error
    found = {}
    for name, shape in shapes.items():
        terms = sum(key.rpartition("/")[0].rpartition("/")[0] == name for key in tensors) // 2
        rows = tuple(tensors.get(f"{name}/{term}/rows", np.empty(0)) for term in range(terms))
        columns = tuple(tensors.get(f"{name}/{term}/columns", np.empty(0)) for term in range(terms))
        fits = all(r.shape == shape[:1] and c.shape == shape[1:] for r, c in zip(rows, columns, strict=True))
        if not terms or not fits or any(part.dtype != np.float32 for part in (*rows, *columns)):
            raise InputError(f'{path} has no importance that fits "{name}": {way_out}')
        found[name] = Importance(rows=rows, columns=columns)
    return found
