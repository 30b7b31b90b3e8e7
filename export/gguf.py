"""Write GGUF files that stock llama.cpp reads: sizes exact beforehand, tensors in any order, all or nothing."""

from __future__ import annotations

import math
import shutil
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgekit.export.gguf_metadata import pack_metadata, pack_string
from edgekit.models.checkpoint import Checkpoint
from edgekit.models.errors import InputError, TargetError
from edgekit.models.families import family_named
from edgekit.models.files import atomic_write
from edgekit.models.rope import ROPE_FACTORS, rope_factors
from edgekit.models.spec import MATRIX_ROLES, TensorSpec
from edgekit.models.tokenizer import TokenizerFiles
from edgekit.models.tokenizer_gguf import tokenizer_metadata
from edgekit.quant.containers import GGUF
from edgekit.quant.formats import Blocks, Format, format_of
from edgekit.quant.formats.f32 import F32

_QUANTISATION_VERSION = 2  # ggml's GGML_QNT_VERSION


@dataclass(frozen=True)
class _Entry:
    """One tensor in the file: its GGUF name and shape, format, and where its bytes lie in the data section."""

    name: str
    shape: tuple[int, ...]
    format: Format
    bytes: int
    offset: int


def header_bytes(checkpoint: Checkpoint, tokenizer: TokenizerFiles) -> int:
    """The bytes before the tensor data, padding included; they do not depend on the formats."""
    return len(_header(checkpoint, tokenizer, _layout(checkpoint, dict.fromkeys(_matrices(checkpoint), "f32"))))


def file_bytes(checkpoint: Checkpoint, tokenizer: TokenizerFiles, formats: Mapping[str, str]) -> int:
    """The exact size of the file that `write_gguf` makes with those formats (Hugging Face name -> format name)."""
    return header_bytes(checkpoint, tokenizer) + _data_bytes(_layout(checkpoint, formats))


def write_gguf(
    checkpoint: Checkpoint,
    tokenizer: TokenizerFiles,
    tensors: Iterable[tuple[str, Blocks]],
    formats: Mapping[str, str],
    path: Path,
    *,
    vectors: Mapping[str, NDArray[np.float32]] | None = None,
) -> int:
    """Write the model and return the file's size in bytes; the same input gives the same bytes.

    `tensors` yields every matrix once, in any order, as (Hugging Face name, blocks (rows, row bytes) uint8 in the
    checkpoint's row order), encoded in `formats[name]`; one is in memory at a time. Norms and biases are stored as F32,
    read from the checkpoint unless `vectors` (Hugging Face name -> values in the checkpoint's form) has them. Raises
    InputError where formats do not fit the checkpoint, TargetError where the disk is too small or fails; an existing
    file at `path` then stays as it was.
    """
    layout = _layout(checkpoint, formats)
    header = _header(checkpoint, tokenizer, layout)
    total = len(header) + _data_bytes(layout)
    _require_space(path, total)
    specs = {tensor.name: tensor for tensor in checkpoint.tensors}
    with atomic_write(path) as file, tqdm(total=total, desc="writing", unit="B", unit_scale=True, disable=None) as bar:
        file.write(header)
        file.truncate(total)  # padding reads as zeros
        for name, values in _vectors(checkpoint, vectors or {}):
            bar.update(_place(file, len(header), layout[name], values.astype("<f4").view(np.uint8)))
        pending = set(_matrices(checkpoint))
        for name, blocks in tensors:
            pending.remove(name)  # a tensor that is unknown or comes twice is the caller's mistake
            entry = layout[specs[name].gguf_name]
            assert blocks.shape == (entry.shape[0], entry.bytes // entry.shape[0]), (name, blocks.shape, entry)
            bar.update(_place(file, len(header), entry, interleave(blocks, specs[name].rope_heads)))
        assert not pending, f"not written: {sorted(pending)}"
    return total


def interleave(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows (N, ...) of `heads` heads from Hugging Face's order (halves rotate together) to ggml's (neighbours do).

    Within each head, rows j and j + D/2 become rows 2j and 2j + 1. `heads` 0 changes nothing.
    """
    if not heads:
        return rows
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _matrices(checkpoint: Checkpoint) -> list[str]:
    return [tensor.name for tensor in checkpoint.tensors if tensor.role in MATRIX_ROLES]


def _layout(checkpoint: Checkpoint, formats: Mapping[str, str]) -> dict[str, _Entry]:
    """Every tensor by its GGUF name, in file order. Raises InputError where `formats` does not fit the checkpoint."""
    unknown = set(formats) - set(_matrices(checkpoint))
    if unknown:
        raise InputError(f"{checkpoint.path} has no matrix '{min(unknown)}': use a plan made for this checkpoint")
    entries: dict[str, _Entry] = {}
    offset = 0

    def add(name: str, shape: tuple[int, ...], format: Format) -> None:
        nonlocal offset
        size = format.bytes(math.prod(shape[:-1]), shape[-1])
        entries[name] = _Entry(name, shape, format, size, offset)
        offset += _padded(size)

    factors = rope_factors(checkpoint.spec)
    if factors is not None:
        add(ROPE_FACTORS, factors.shape, F32)
    for tensor in checkpoint.tensors:
        add(tensor.gguf_name, tensor.shape, _format(checkpoint, tensor, formats))
    return entries


def _format(checkpoint: Checkpoint, tensor: TensorSpec, formats: Mapping[str, str]) -> Format:
    if tensor.role not in MATRIX_ROLES:
        return F32
    if tensor.name not in formats:
        raise InputError(f"no format is given for {tensor.name} of {checkpoint.path}: use a plan made for it")
    format = format_of(formats[tensor.name])
    if not format.carries(tensor.shape[1]):
        raise InputError(
            f"{format.name} cannot carry {tensor.name}: its {tensor.shape[1]} columns are no multiple of "
            f"{format.block}: choose another format for it"
        )
    return format


def _header(checkpoint: Checkpoint, tokenizer: TokenizerFiles, layout: Mapping[str, _Entry]) -> bytes:
    metadata = _metadata(checkpoint, tokenizer, layout)
    infos = [
        pack_string(entry.name)
        + struct.pack(f"<I{len(entry.shape)}Q", len(entry.shape), *reversed(entry.shape))
        + struct.pack("<IQ", entry.format.ggml_type, entry.offset)
        for entry in layout.values()
    ]
    counts = struct.pack("<4sIQQ", b"GGUF", 3, len(infos), len(metadata))
    header = counts + pack_metadata(metadata) + b"".join(infos)
    return header.ljust(_padded(len(header)), b"\0")


def _metadata(
    checkpoint: Checkpoint, tokenizer: TokenizerFiles, layout: Mapping[str, _Entry]
) -> dict[str, str | int | float | bool | list[Any]]:
    """What stock converters write, nothing that changes between runs."""
    from gguf.utility import size_label

    parameters = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors)
    return {
        "general.architecture": checkpoint.spec.family,
        "general.type": "model",
        "general.name": _name(checkpoint.path),
        "general.size_label": size_label(parameters, parameters, 0, 0),
        "general.file_type": _file_type(layout),
        "general.quantization_version": _QUANTISATION_VERSION,
        **family_named(checkpoint.spec.family).gguf_metadata(checkpoint.spec),
        **tokenizer_metadata(tokenizer),
    }


def _name(path: Path) -> str:
    """The folder's or file's name; a Hub snapshot (models--owner--name/snapshots/commit) goes by the model's."""
    path = path.absolute()
    if path.parent.name == "snapshots":
        return path.parent.parent.name.rpartition("--")[2]
    return path.stem if path.is_file() else path.name


def _file_type(layout: Mapping[str, _Entry]) -> int:
    """The format that holds most weights."""
    weights: dict[int, int] = {}
    for entry in layout.values():
        kind = entry.format.file_type
        weights[kind] = weights.get(kind, 0) + math.prod(entry.shape)
    return max(weights, key=lambda kind: (weights[kind], -kind))


def _vectors(
    checkpoint: Checkpoint, changed: Mapping[str, NDArray[np.float32]]
) -> Iterable[tuple[str, NDArray[np.float32]]]:
    """What is stored as F32 whatever the plan, by GGUF name."""
    factors = rope_factors(checkpoint.spec)
    if factors is not None:
        yield ROPE_FACTORS, factors
    for tensor in checkpoint.tensors:
        if tensor.role not in MATRIX_ROLES:
            values = changed[tensor.name] if tensor.name in changed else checkpoint.read(tensor.name)
            yield tensor.gguf_name, interleave(values + np.float32(tensor.offset), tensor.rope_heads)


def _place(file: BinaryIO, start: int, entry: _Entry, data: NDArray[np.uint8]) -> int:
    assert data.nbytes == entry.bytes, (entry, data.nbytes)
    file.seek(start + entry.offset)
    file.write(np.ascontiguousarray(data).data)
    return data.nbytes


def _require_space(path: Path, needed: int) -> None:
    """TargetError before anything is computed rather than after; a missing folder is left to `atomic_write`."""
    if path.parent.is_dir() and (free := shutil.disk_usage(path.parent).free) < needed:
        raise TargetError(f"cannot write {path}: it needs {needed} bytes and {free} are free: choose another disk")


def _data_bytes(layout: Mapping[str, _Entry]) -> int:
    return sum(_padded(entry.bytes) for entry in layout.values())


def _padded(size: int) -> int:
    return -(-size // GGUF.alignment) * GGUF.alignment
